//! Tests of the uplink, with real files and brokers on loopback.

mod parents;
mod scenes;
mod world;
