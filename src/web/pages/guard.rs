//! Before every page: is it switched on, who asks, may they, and is a form ours. After it: the headers that all answers
//! have.
//!
//! Neighbours: `mod` says which right a route asks for. Left out: what a page shows.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, COOKIE, HOST, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use chrono::Utc;
use tracing::{error, warn};

use crate::config::Role;
use crate::store::{Activity, StoreError};

use super::super::door::Caller;
use super::super::respond::Problem;
use super::Pages;
use super::access::{self, ANYBODY, Right};
use super::forms::{self, Form, FormFault};
use super::frame;
use super::sessions::Token;

/// Who asks; an extension of every request that was admitted.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    /// `None`: whoever is on this machine.
    pub(super) name: Option<String>,
    pub(super) roles: Vec<Role>,
    pub(super) token: Option<Token>,
}

impl Visitor {
    pub(super) fn may(&self, right: Right) -> bool {
        access::allows(&self.roles, right)
    }

    /// What its forms carry; empty where there are none.
    pub(super) fn form_token(&self) -> String {
        self.token.as_ref().map(Token::form_token).unwrap_or_default()
    }

    /// A line of the activity log.
    pub(super) fn activity(&self, action: &str, object: &str, outcome: &str) -> Activity {
        Activity {
            user: self.name.clone().unwrap_or_default(),
            action: action.to_owned(),
            object: object.to_owned(),
            outcome: outcome.to_owned(),
        }
    }
}

impl Pages {
    /// Name of the cookie with a session's token; over TLS the browser sees to it that it is of this host, whole and
    /// encrypted.
    pub(super) fn session_cookie(&self) -> &'static str {
        if self.is_secure { "__Host-sidelight" } else { "sidelight" }
    }

    /// A cookie of this name, if the request has exactly one.
    pub(super) fn cookie<'h>(&self, headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
        let pairs = headers.get_all(COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|line| line.split(';'));
        let mut found = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(key, _)| *key == name);
        let (_, value) = found.next()?;
        // A second one was put there by somebody else.
        found.next().is_none().then_some(value)
    }

    /// Who asks, where that is known.
    pub(super) fn visitor(&self, headers: &HeaderMap) -> Option<Visitor> {
        let people = self.site.people();
        if people.is_empty() {
            // Whoever is here may look; but not a page of another site whose name was made to mean this machine.
            return (self.is_local && names_this_machine(headers)).then(|| Visitor {
                name: None,
                roles: ANYBODY.to_vec(),
                token: None,
            });
        }
        let token = Token::parse(self.cookie(headers, self.session_cookie())?)?;
        let (name, mark) = self.site.sessions.find(&token, self.site.limits(), Instant::now())?;
        let person = people.named(&name).filter(|person| person.mark == mark)?;
        Some(Visitor { name: Some(name), roles: person.roles.clone(), token: Some(token) })
    }

    /// Whether pages are switched on.
    pub(super) fn is_on(&self) -> bool {
        self.site.config().web.pages
    }

    /// Writes a line of the activity log; what cannot be told is not done.
    pub(super) async fn note(&self, activity: &Activity) -> Result<(), StoreError> {
        self.site.store.note_activity(activity, Utc::now()).await
    }
}

/// Lets a request through to its page.
pub(super) async fn admit(
    State((pages, right)): State<(Pages, Right)>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    if !pages.is_on() {
        return frame::nothing_here();
    }
    let Some(visitor) = pages.visitor(request.headers()) else {
        if pages.site.people().is_empty() {
            let text =
                "Without users these pages are for this machine alone, under its own names: localhost, 127.0.0.1.";
            return frame::notice(&pages, None, StatusCode::MISDIRECTED_REQUEST, "Not here", text);
        }
        return (StatusCode::SEE_OTHER, [(LOCATION, "/login")]).into_response();
    };
    caller.is_known();
    if !visitor.may(right) {
        warn!(user = visitor.name, right = right.as_str(), "a page that the user's roles do not allow");
        if let Err(cause) = pages.note(&visitor.activity("refused", right.as_str(), "no role allows it")).await {
            return failed(&pages, &visitor, cause);
        }
        let text = "Your roles do not allow this. Whoever runs the node gives roles, in its configuration.";
        return frame::notice(&pages, Some(&visitor), StatusCode::FORBIDDEN, "Not allowed", text);
    }
    // What not everybody may see is told when it was seen.
    if matches!(right, Right::Configuration | Right::Activity)
        && let Err(cause) = pages.note(&visitor.activity("read", right.as_str(), "done")).await
    {
        return failed(&pages, &visitor, cause);
    }
    let mut request = request;
    if request.method() == Method::POST {
        let (parts, body) = request.into_parts();
        let form = match own_form(&pages, &parts.headers, body, &visitor.form_token()).await {
            Ok(form) => form,
            Err(fault) => return refused(&pages, Some(&visitor), fault),
        };
        request = Request::from_parts(parts, axum::body::Body::empty());
        request.extensions_mut().insert(form);
    }
    request.extensions_mut().insert(visitor);
    next.run(request).await
}

/// Lets a request through to a page that needs no session.
pub(super) async fn open(State(pages): State<Pages>, request: Request, next: Next) -> Response {
    if !pages.is_on() || pages.site.people().is_empty() {
        return frame::nothing_here();
    }
    next.run(request).await
}

/// A form that a page of the same session sent.
pub(super) async fn own_form(
    pages: &Pages,
    headers: &HeaderMap,
    body: axum::body::Body,
    token: &str,
) -> Result<Form, FormFault> {
    forms::is_ours(headers, pages.is_secure)?;
    let form = Form::read(headers, body).await?;
    if token.is_empty() { Err(FormFault::Token) } else { form.carries(token).map(|()| form) }
}

/// The answer to a form that was not taken.
pub(super) fn refused(pages: &Pages, visitor: Option<&Visitor>, fault: FormFault) -> Response {
    let (status, text) = match fault {
        FormFault::Foreign => {
            warn!("a form that another site sent was refused");
            (StatusCode::FORBIDDEN, "This form was not sent by a page of this node, and nothing was done.")
        }
        FormFault::Token => (
            StatusCode::FORBIDDEN,
            "This form is not of your present session, and nothing was done. Load its page again.",
        ),
        FormFault::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The form is too large, and nothing was done."),
        FormFault::TooSlow => (StatusCode::REQUEST_TIMEOUT, "The form did not come in time, and nothing was done."),
        FormFault::NotAForm => (StatusCode::BAD_REQUEST, "What came is no form, and nothing was done."),
    };
    frame::notice(pages, visitor, status, "Nothing was done", text)
}

/// The answer where the store cannot.
pub(super) fn failed(pages: &Pages, visitor: &Visitor, cause: StoreError) -> Response {
    error!(error = %cause, "a page could not be shown");
    let status = Problem::from(cause).status();
    let text = "The index of the node did not answer as it should. Its log says why; try again in a while.";
    frame::notice(pages, Some(visitor), status, "Not now", text)
}

/// Whatever has no page.
pub(super) async fn nothing_there(State(pages): State<Pages>, request: Request) -> Response {
    let of_people = pages.is_on() && !request.uri().path().starts_with("/dicomweb");
    if !of_people {
        return frame::nothing_here();
    }
    let visitor = pages.visitor(request.headers());
    frame::notice(&pages, visitor.as_ref(), StatusCode::NOT_FOUND, "Not found", "There is no such page.")
}

/// Everything comes from here, is put into no frame, is kept nowhere and says nothing to others.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; font-src 'self'; \
                      connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Sets what all answers say to the browser, errors too.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("x-frame-options", "DENY"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Style and script have names that change with them.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether the request was made to a name or address of this machine.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|v| v.to_str().ok()) else { return false };
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                return address.parse::<Ipv6Addr>().is_ok_and(|a| a.is_loopback()) && is_port(port);
            }
            None => return false,
        },
        None => host.find(':').map_or((host, ""), |at| host.split_at(at)),
    };
    let is_loopback = name.parse::<IpAddr>().map_or(name.eq_ignore_ascii_case("localhost"), |a| a.is_loopback());
    is_loopback && is_port(port)
}

/// Nothing, or a colon and digits.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn without_users_a_request_has_to_name_this_machine() {
        let rows = [
            ("localhost:8104", true),
            ("LOCALHOST", true),
            ("127.0.0.1:8104", true),
            ("127.1.2.3", true),
            ("[::1]:8104", true),
            ("[::1]", true),
            ("evil.example:8104", false),
            ("localhost.evil.example", false),
            ("192.0.2.1:8104", false),
            ("[::2]:8104", false),
            ("[::1", false),
            ("127.0.0.1:8104@evil", false),
            ("", false),
        ];
        for (host, expected) in rows {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(host).unwrap())]);
            assert_eq!(names_this_machine(&headers), expected, "{host}");
        }
        assert!(!names_this_machine(&HeaderMap::new()));
    }
}
