//! Sessions with a scripted broker that speaks the extension.

mod confirming;
mod greeting;
mod peer;
mod subscribing;
