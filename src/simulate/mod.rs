//! Simulate: a world model that drives the Controller on virtual time -> what it did.
