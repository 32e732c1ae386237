//! The extension `hpx/1`, spoken by a scripted client over real sockets.

mod acks;
mod confirm;
mod endings;
mod heartbeat;
mod hello;
mod model;
mod pacing;
mod replies;
mod streams;
mod stuck;
mod turns;
mod window;
