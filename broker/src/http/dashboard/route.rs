//! The paths of the dashboard: who may ask for what, and the headers of every answer.

use std::{convert::Infallible, sync::Arc};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
        REFERRER_POLICY, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
};
use tokio_util::sync::CancellationToken;

use super::{Shared, Unavailable, access::is_foreign, body::Content, lease::Lease, page, stream, tokens::Scope};

const SNAPSHOT: &str = "/api/v1/snapshot";
const STREAM: &str = "/api/v1/stream";
const SCOPE: &str = "/api/v1/scope";
const LOGIN: &str = "/api/v1/login";
const LOGOUT: &str = "/api/v1/logout";

const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                   base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                   require-trusted-types-for 'script'; trusted-types 'none'";

type Answer = Response<Content>;

/// Answers a request. The query and the token of a request are in no log.
pub(super) async fn answer(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
    lease: &Arc<Lease>,
) -> Result<Answer, Infallible> {
    let mut answer = route(&request, shared, lease).await;
    add_headers(answer.headers_mut());
    Ok(answer)
}

/// Adds the headers that bind a browser: it runs the script of the page and nothing else, makes no
/// markup of texts, embeds nothing, keeps nothing, and tells nobody.
fn add_headers(headers: &mut HeaderMap) {
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, CSP),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

async fn route(request: &Request<Incoming>, shared: &Arc<Shared>, lease: &Arc<Lease>) -> Answer {
    if !shared.access.knows_host(request) {
        let content = "this name is not known here: use the address, localhost or a name of --dashboard-host\n";
        return text(StatusCode::MISDIRECTED_REQUEST, content);
    }
    let (path, method) = (request.uri().path(), request.method());
    let page = page::file(path);
    let allowed: &[Method] = match path {
        _ if page.is_some() => &[Method::GET, Method::HEAD],
        SNAPSHOT | SCOPE => &[Method::GET, Method::HEAD],
        STREAM => &[Method::GET],
        LOGIN | LOGOUT => &[Method::POST],
        _ => return text(StatusCode::NOT_FOUND, "not found: try / or /api/v1/snapshot\n"),
    };
    if !allowed.contains(method) {
        let names: Vec<_> = allowed.iter().map(Method::as_str).collect();
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {}\n", names.join(" and ")));
        answer.headers_mut().insert(ALLOW, HeaderValue::from_str(&names.join(", ")).expect("names of methods"));
        return answer;
    }
    // The page has no secrets, and a link may lead to it from anywhere.
    if let Some((kind, file)) = page {
        return whole(StatusCode::OK, kind, file);
    }
    if is_foreign(request) {
        return text(StatusCode::FORBIDDEN, "another site's page may not ask for this\n");
    }
    if path == LOGIN {
        return with_cookie(shared.access.cookie(request));
    }
    let revoked = shared.access.tokens.revoked();
    let Some(scope) = shared.access.scope(request) else { return unauthorized() };
    let query = request.uri().query().unwrap_or_default();
    match path {
        SNAPSHOT => snapshot(query.to_owned(), shared).await,
        STREAM => events(query, scope, revoked, shared, lease),
        LOGOUT => with_cookie(Some(shared.access.no_cookie(request))),
        _ => whole(StatusCode::OK, JSON, format!("{{\"scope\":\"{}\"}}", scope.name())),
    }
}

/// The answer to a login or logout, which is the cookie alone.
fn with_cookie(cookie: Option<String>) -> Answer {
    match cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
        Some(mut cookie) => {
            cookie.set_sensitive(true);
            let mut answer = Response::new(Content::whole(Bytes::new()));
            *answer.status_mut() = StatusCode::NO_CONTENT;
            answer.headers_mut().insert(SET_COOKIE, cookie);
            answer
        }
        None => unauthorized(),
    }
}

fn unauthorized() -> Answer {
    let mut answer = text(StatusCode::UNAUTHORIZED, "a token is wanted: Authorization: Bearer TOKEN\n");
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

async fn snapshot(query: String, shared: &Arc<Shared>) -> Answer {
    // The semaphore is never closed.
    let permit = shared.building.clone().acquire_owned().await;
    let source = shared.source.clone();
    let build = move || {
        let _permit = permit;
        source.snapshot(&query)
    };
    // The runtime's tasks must not wait for ten thousand rows.
    match tokio::task::spawn_blocking(build).await {
        Ok(Ok(json)) => whole(StatusCode::OK, JSON, json),
        Ok(Err(why)) => unavailable(why),
        Err(_) => unavailable(Unavailable::Stopped),
    }
}

fn events(query: &str, scope: Scope, revoked: CancellationToken, shared: &Arc<Shared>, lease: &Arc<Lease>) -> Answer {
    let watch = match shared.source.watch(query) {
        Ok(watch) => watch,
        Err(why) => return unavailable(why),
    };
    if watch.tails() && scope < Scope::Tail {
        return text(
            StatusCode::FORBIDDEN,
            "this token may look, and not read messages: tail=1 needs that of scope tail\n",
        );
    }
    let Ok(permit) = shared.streams.clone().try_acquire_owned() else {
        let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open: close one\n");
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        return answer;
    };
    let mut answer = Response::new(Content::Events(stream::events(watch, permit, revoked, shared, lease)));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // A proxy must not collect events before it passes them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

fn unavailable(why: Unavailable) -> Answer {
    match why {
        Unavailable::Query(fault) => text(StatusCode::BAD_REQUEST, format!("{fault}\n")),
        Unavailable::Stopped => text(StatusCode::SERVICE_UNAVAILABLE, "stopped\n"),
    }
}

const JSON: &str = "application/json";

fn text(status: StatusCode, content: impl Into<Bytes>) -> Answer {
    whole(status, "text/plain; charset=utf-8", content)
}

fn whole(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Content::whole(content));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
