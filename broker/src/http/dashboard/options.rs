//! The options of the dashboard, and their check.

use std::{net::IpAddr, path::PathBuf};

use crate::{error::StartError, net::endpoint::Endpoint};

/// The options of the dashboard.
#[derive(Debug, Default)]
pub(crate) struct DashboardOptions {
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) tokens: Option<PathBuf>,
    pub(crate) names: Vec<String>,
    /// Fields of JSON payloads that name the source of an attack, before those that are known.
    pub(crate) source_fields: Vec<String>,
}

impl DashboardOptions {
    pub(crate) fn check(&self) -> Result<(), StartError> {
        match &self.endpoint {
            Some(endpoint) if !endpoint.is_secure() => check_plain(endpoint.interface(), endpoint.port()),
            _ => Ok(()),
        }
    }
}

/// Refuses plain HTTP at another interface than that of loopback.
pub(crate) fn check_plain(interface: &str, port: u16) -> Result<(), StartError> {
    if interface == "localhost" || interface.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback()) {
        return Ok(());
    }
    Err(StartError::Option(format!(
        "the dashboard at {interface} is not on the loopback interface, and its token would cross the network in plain \
         text: give it a certificate (tls:interface={interface}:port={port}:key=KEY.pem:cert=CERT.pem), or put it at \
         127.0.0.1:{port} behind a proxy with TLS"
    )))
}
