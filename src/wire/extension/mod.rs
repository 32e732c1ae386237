//! The extension `hpx/1` as values: by which a client and a broker confirm what they have.
//!
//! A broker offers it with a token behind its name in INFO ([`offer`], [`strip`]). Other peers see
//! nothing of it but that token.

mod ids;
mod numbering;
mod token;

pub use ids::{NodeId, Position, StreamId, StreamPosition};
pub use numbering::{StreamNumbering, next_number};
pub use token::{offer, strip};
