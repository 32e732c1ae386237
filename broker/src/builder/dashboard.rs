//! The builder's options of the dashboard: its address, its tokens, and the names that it is known by.

use std::{fmt, path::PathBuf};

use super::BrokerBuilder;
use crate::net::endpoint::{Endpoint, parse::EndpointError};

impl BrokerBuilder {
    /// Adds the dashboard at `ADDR:PORT`: a page for browsers that shows
    /// [`Broker::snapshot`](crate::broker::Broker::snapshot) as it changes, and
    /// `GET /api/v1/snapshot`, which answers with the same as JSON. Default: no dashboard. Port 0 lets
    /// the system pick one, see [`Broker::dashboard_addr`](crate::broker::Broker::dashboard_addr).
    ///
    /// Requests for data need a token, in `Authorization: Bearer TOKEN`; the page trades it for a
    /// cookie. On another address than those of the loopback interface, the dashboard needs TLS: see
    /// [`dashboard_endpoint`](Self::dashboard_endpoint).
    ///
    /// The dashboard costs publishers nothing while no page shows messages.
    pub fn dashboard(self, addr: impl fmt::Display) -> Result<Self, EndpointError> {
        Ok(self.dashboard_endpoint(Endpoint::bind(&addr.to_string())?))
    }

    /// The same, at an endpoint, which may be one with TLS. Its other options mean nothing here.
    pub fn dashboard_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.dashboard.endpoint = Some(endpoint);
        self
    }

    /// The file with the tokens of the dashboard, with mode 0600: a line `view TOKEN` for those who may look, and a
    /// line `tail TOKEN` for those who may also read what is published. It is made where it is missing.
    /// Default: `dashboard.tokens` in the [data folder](Self::data_dir), and without one, tokens that
    /// last until the broker stops.
    pub fn dashboard_tokens(mut self, path: impl Into<PathBuf>) -> Self {
        self.dashboard.tokens = Some(path.into());
        self
    }

    /// Adds a name by which browsers may know the dashboard. Addresses and `localhost` always count; any
    /// other name in the header `Host` is refused, so that no page of another site can read it.
    pub fn dashboard_host(mut self, name: impl Into<String>) -> Self {
        self.dashboard.names.push(name.into());
        self
    }

    /// Adds a field of JSON payloads that names the source of an attack, such as `alert.src_ip` or
    /// `remote[0]`, for the top sources. It counts before those of the usual honeypots, which are known.
    pub fn dashboard_source_field(mut self, field: impl Into<String>) -> Self {
        self.dashboard.source_fields.push(field.into());
        self
    }
}
