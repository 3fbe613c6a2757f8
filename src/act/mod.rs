//! Act: a command for the model server -> HTTP to it -> an input that says what became of it.
