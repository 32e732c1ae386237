//! Sessions with a scripted broker that speaks the extension.

mod confirming;
mod flowing;
mod greeting;
mod mailboxes;
mod peer;
mod subscribing;
