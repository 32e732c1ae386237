//! Sessions with a scripted broker that speaks the extension.

mod confirming;
mod flowing;
mod greeting;
mod peer;
mod subscribing;
