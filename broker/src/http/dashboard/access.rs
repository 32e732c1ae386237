//! The access to the dashboard: the name that a browser knows it by, and its token or cookie.

use std::{net::IpAddr, sync::Arc};

use hyper::{
    Request,
    header::{AUTHORIZATION, COOKIE, HOST, ORIGIN},
};

use super::tokens::{CurrentTokens, Scope};

/// The rules of access.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) tokens: Arc<CurrentTokens>,
    /// Names by which browsers may know the dashboard, besides addresses and `localhost`.
    pub(crate) names: Vec<String>,
    /// The port, which tells the cookies of several brokers on one machine apart.
    pub(crate) port: u16,
    pub(crate) is_secure: bool,
}

impl Access {
    /// Whether a request names a host that it may. A page of another site could otherwise make its own
    /// name lead here, and a browser would let it read the answers.
    pub(crate) fn knows_host<B>(&self, request: &Request<B>) -> bool {
        let mut hosts = request.headers().get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        host.to_str().is_ok_and(|host| self.knows(host))
    }

    fn knows(&self, host: &str) -> bool {
        if let Some(bracketed) = host.strip_prefix('[') {
            let address = bracketed.split_once(']').map(|(address, _)| address);
            return address.is_some_and(|address| address.parse::<IpAddr>().is_ok());
        }
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        name.parse::<IpAddr>().is_ok() || is("localhost") || self.names.iter().any(|known| is(known))
    }

    /// The rights of a request, by its token or its cookie.
    pub(crate) fn scope<B>(&self, request: &Request<B>) -> Option<Scope> {
        self.bearer(request).or_else(|| {
            let cookies = request.headers().get_all(COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
            let name = self.cookie_name();
            let mut cookies =
                cookies.flat_map(|cookies| cookies.split(';')).filter_map(|one| one.trim().split_once('='));
            cookies.find(|(known, _)| *known == name).and_then(|(_, token)| self.tokens.scope(token))
        })
    }

    /// The same, by its token alone.
    fn bearer<B>(&self, request: &Request<B>) -> Option<Scope> {
        self.tokens.scope(token(request)?)
    }

    /// The cookie for the token of a request.
    pub(crate) fn cookie<B>(&self, request: &Request<B>) -> Option<String> {
        let token = token(request).filter(|token| self.tokens.scope(token).is_some())?;
        Some(format!("{}={token}{}", self.cookie_name(), self.attributes(request)))
    }

    /// The cookie that takes its place, and is over at once.
    pub(crate) fn no_cookie<B>(&self, request: &Request<B>) -> String {
        format!("{}={}; Max-Age=0", self.cookie_name(), self.attributes(request))
    }

    fn attributes<B>(&self, request: &Request<B>) -> &'static str {
        // Behind a proxy with TLS. A client that claims it wrongly loses its own cookie.
        let forwarded = request.headers().get("x-forwarded-proto").is_some_and(|value| value == "https");
        if self.is_secure || forwarded {
            "; Path=/; HttpOnly; SameSite=Strict; Secure"
        } else {
            "; Path=/; HttpOnly; SameSite=Strict"
        }
    }

    fn cookie_name(&self) -> String {
        format!("hpfeeds-{}", self.port)
    }
}

/// Whether a browser asks for a page of another origin, be it one on another port of this machine.
/// Programs that are no browsers say nothing about that.
pub(crate) fn is_foreign<B>(request: &Request<B>) -> bool {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = header("sec-fetch-site") {
        return !matches!(site, "same-origin" | "none");
    }
    // Browsers of before 2023, and plain HTTP by a name.
    let host = header(HOST.as_str()).unwrap_or_default();
    let own = |origin: &str| origin.split_once("://").is_some_and(|(_, name)| name.eq_ignore_ascii_case(host));
    header(ORIGIN.as_str()).is_some_and(|origin| !own(origin))
}

fn token<B>(request: &Request<B>) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::http::dashboard::tokens::Tokens;

    /// With the token for everything.
    fn access(is_secure: bool) -> (Access, String) {
        let tokens = Tokens::make().unwrap();
        let bearer = format!("Bearer {}", tokens.all());
        let (tokens, names) = (Arc::new(CurrentTokens::new(tokens, None)), vec!["broker.example".to_owned()]);
        (Access { tokens, names, port: 9432, is_secure }, bearer)
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let builder = headers.iter().fold(Request::builder(), |builder, (name, value)| builder.header(*name, *value));
        builder.body(()).unwrap()
    }

    #[test]
    fn names_of_other_sites_are_refused() {
        let (access, _) = access(false);
        let known =
            ["127.0.0.1", "127.0.0.1:9432", "[::1]:9432", "[::1]", "localhost:1", "LOCALHOST", "Broker.Example:9432"];
        for host in known {
            assert!(access.knows_host(&request(&[("host", host)])), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:9432", "[evil]", "", ":9432", "127.0.0.1.evil.example"] {
            assert!(!access.knows_host(&request(&[("host", host)])), "{host}");
        }
        assert!(!access.knows_host(&request(&[])));
        assert!(!access.knows_host(&request(&[("host", "localhost"), ("host", "localhost")])));
    }

    #[test]
    fn pages_of_other_origins_are_known_by_their_headers() {
        let host = ("host", "127.0.0.1:9432");
        for (name, value, foreign) in [
            ("sec-fetch-site", "same-origin", false),
            ("sec-fetch-site", "none", false),
            ("sec-fetch-site", "same-site", true),
            ("sec-fetch-site", "cross-site", true),
            ("sec-fetch-site", "", true),
            ("origin", "http://127.0.0.1:9432", false),
            ("origin", "http://127.0.0.1:8000", true),
            ("origin", "null", true),
            ("accept", "*/*", false),
        ] {
            assert_eq!(is_foreign(&request(&[host, (name, value)])), foreign, "{name}: {value}");
        }
        // The browser knows best, also behind a proxy that gives another name.
        let both = [host, ("sec-fetch-site", "same-origin"), ("origin", "https://hp.example")];
        assert!(!is_foreign(&request(&both)));
    }

    #[test]
    fn a_cookie_is_secure_where_the_connection_is() {
        let (plain, secure) = (access(false), access(true));
        let of = |(access, bearer): &(Access, String), more: &[(&str, &str)]| {
            let headers = [&[("authorization", &**bearer)], more].concat();
            access.cookie(&request(&headers)).unwrap().ends_with("; Secure")
        };
        assert_eq!((of(&plain, &[]), of(&secure, &[])), (false, true));
        assert_eq!(
            (of(&plain, &[("x-forwarded-proto", "https")]), of(&secure, &[("x-forwarded-proto", "http")])),
            (true, true)
        );
    }

    #[test]
    fn a_token_is_worth_a_cookie_and_both_let_in() {
        let (access, bearer) = access(true);
        let asked = request(&[("authorization", &bearer)]);
        assert_eq!(access.scope(&asked), Some(Scope::Tail));
        let cookie = access.cookie(&asked).unwrap();
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
        let value = cookie.split(';').next().unwrap();
        let cookies = format!("a=b; {value}; c=d");
        assert_eq!(access.scope(&request(&[("cookie", &cookies)])), Some(Scope::Tail));
        assert_eq!(access.bearer(&request(&[("cookie", &cookies)])), None, "a cookie buys no cookie");
        assert_eq!(access.no_cookie(&asked), "hpfeeds-9432=; Path=/; HttpOnly; SameSite=Strict; Secure; Max-Age=0");
        for wrong in ["Bearer x", "Basic eDp5", "Bearer", ""] {
            let asked = request(&[("authorization", wrong)]);
            assert_eq!((access.scope(&asked), access.cookie(&asked)), (None, None), "{wrong}");
        }
        assert_eq!(access.scope(&request(&[("cookie", "hpfeeds-9433=x; hpfeeds-9432=y")])), None);
    }
}
