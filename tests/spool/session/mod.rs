//! Sessions with a spool, in virtual time: a model of a broker, and disks that are simulated.

mod broker;
mod ending;
mod feed;
mod full;
mod online;
mod random;
mod replay;
mod sensor;
