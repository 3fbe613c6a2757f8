//! Gateway: requests of clients -> the model that serves, with nothing lost in between.
