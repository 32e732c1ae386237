//! Tests of mailboxes: scenes one by one, and worlds of texts, connections, acknowledgements, drops
//! and crashes against a model of sets.

mod model;
mod scenes;
mod unmodified;
mod windows;
