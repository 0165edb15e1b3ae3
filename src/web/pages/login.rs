//! Logging in and out.
//!
//! A session gets its token at the login and no other time, so nobody can be made to use one that another person chose.
//! What a name that nobody has is answered, and after how long, is what a wrong password is answered. The form of the
//! login has a token too, bound to a cookie of its own, so that nobody is logged in by another site either. Neighbours:
//! `people` knows passwords, `throttle` who has to wait, `sessions` what begins. Left out: what a session may.

use std::sync::Arc;
use std::time::{Duration, Instant};

use askama::Template;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{LOCATION, RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tracing::{error, info, warn};

use crate::store::Activity;

use super::super::door::Caller;
use super::forms::Form;
use super::frame::{self, Frame, page};
use super::guard::{own_form, refused};
use super::sessions::Token;
use super::{Pages, password};

/// Longest name that is compared with anything.
const NAME_BYTES_MAX: usize = 64;
/// How long somebody waits for their turn to have a password compared.
const TURN_MAX: Duration = Duration::from_secs(20);

#[derive(Template)]
#[template(path = "pages/login.html")]
struct LoginPage {
    frame: Frame,
    fault: Option<String>,
}

/// What became of an attempt.
enum Attempt {
    Succeeded { name: String, mark: [u8; 32] },
    Failed { known: Option<String> },
    Busy,
}

impl Pages {
    fn form_cookie(&self) -> &'static str {
        if self.is_secure { "__Host-sidelight-form" } else { "sidelight-form" }
    }

    /// A cookie that scripts do not see and other sites do not send; `None` takes it back.
    fn set_cookie(&self, name: &str, token: Option<&Token>) -> HeaderValue {
        let secure = if self.is_secure { "; Secure" } else { "" };
        let value = token.map_or("", Token::as_str);
        let age = if token.is_some() { "" } else { "; Max-Age=0" };
        let line = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{age}");
        HeaderValue::from_str(&line).unwrap_or(HeaderValue::from_static(""))
    }

    fn login_page(&self, status: StatusCode, token: &Token, fault: Option<String>) -> Response {
        let mut frame = Frame::new(self, None, "", "Log in");
        frame.token = token.form_token();
        let mut response = page(status, &LoginPage { frame, fault });
        response.headers_mut().append(SET_COOKIE, self.set_cookie(self.form_cookie(), Some(token)));
        response
    }

    /// The token of the form that is open in this browser, else a fresh one.
    fn form_token(&self, headers: &HeaderMap) -> anyhow::Result<Token> {
        let known = self.cookie(headers, self.form_cookie()).and_then(Token::parse);
        known.map_or_else(Token::fresh, Ok)
    }

    /// The form, with what was wrong with it before.
    fn login_form(&self, headers: &HeaderMap, status: StatusCode, fault: Option<String>) -> Response {
        match self.form_token(headers) {
            Ok(token) => self.login_page(status, &token, fault),
            Err(error) => {
                error!(%error, "nobody can log in");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                frame::notice(self, None, status, "Not now", "The node could not answer.")
            }
        }
    }
}

/// The form.
pub(super) async fn form(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    if pages.visitor(&headers).is_some() {
        return to("/");
    }
    pages.login_form(&headers, StatusCode::OK, None)
}

/// An attempt to log in.
pub(super) async fn log_in(
    State(pages): State<Pages>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Some(token) = pages.cookie(&parts.headers, pages.form_cookie()).and_then(Token::parse) else {
        let fault = "Your browser did not keep the cookie of this form. Try again.";
        return pages.login_form(&parts.headers, StatusCode::FORBIDDEN, Some(fault.into()));
    };
    let form = match own_form(&pages, &parts.headers, body, &token.form_token()).await {
        Ok(form) => form,
        Err(fault) => return refused(&pages, None, fault),
    };
    let (name, host) = (form.field("name").trim().to_owned(), caller.address.ip().to_canonical());
    if let Err(wait) = pages.site.throttle.begin(host, &name, Instant::now()) {
        let seconds = wait.as_secs().max(1);
        let fault = format!("Too many attempts. Wait {seconds} s, then try again.");
        let mut response = pages.login_page(StatusCode::TOO_MANY_REQUESTS, &token, Some(fault));
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        return response;
    }
    let line = |user: &str, outcome: &str| Activity {
        user: user.to_owned(),
        action: "login".to_owned(),
        object: format!("from {host}"),
        outcome: outcome.to_owned(),
    };
    let busy = || {
        let fault = "The node is busy with other logins. Try again in a while.";
        let mut response = pages.login_page(StatusCode::SERVICE_UNAVAILABLE, &token, Some(fault.into()));
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        response
    };
    match attempt(&pages, &name, &form).await {
        Attempt::Succeeded { name, mark } => {
            pages.site.throttle.succeeded(host, &name);
            // A login that cannot be told is none.
            if let Err(error) = pages.note(&line(&name, "done")).await {
                error!(%error, "a login could not be told");
                return busy();
            }
            let session = match pages.site.sessions.begin(&name, mark, pages.site.limits(), Instant::now()) {
                Ok(session) => session,
                Err(error) => {
                    error!(%error, "no session");
                    return busy();
                }
            };
            caller.is_known();
            // What was logged in here before is not any more.
            if let Some(old) = pages.cookie(&parts.headers, pages.session_cookie()).and_then(Token::parse) {
                pages.site.sessions.end(&old);
            }
            info!(user = name, %host, "logged in");
            let mut response = to("/");
            let headers = response.headers_mut();
            headers.append(SET_COOKIE, pages.set_cookie(pages.session_cookie(), Some(&session)));
            headers.append(SET_COOKIE, pages.set_cookie(pages.form_cookie(), None));
            response
        }
        Attempt::Failed { known } => {
            // Who mistypes a name may have typed a password there.
            let user = known.unwrap_or_default();
            let whose = if user.is_empty() { "refused: no such user" } else { "refused: wrong password" };
            warn!(user, %host, "a login was refused");
            if let Err(error) = pages.note(&line(&user, whose)).await {
                error!(%error, "a refused login could not be told");
            }
            let fault = "The name or the password is wrong.";
            pages.login_page(StatusCode::UNAUTHORIZED, &token, Some(fault.into()))
        }
        Attempt::Busy => busy(),
    }
}

/// Compares the password, when it is its turn.
async fn attempt(pages: &Pages, name: &str, form: &Form) -> Attempt {
    let Ok(_place) = pages.site.logins.try_acquire() else { return Attempt::Busy };
    let turn = Arc::clone(&pages.site.hashing).acquire_owned();
    let Ok(Ok(turn)) = tokio::time::timeout(TURN_MAX, turn).await else { return Attempt::Busy };
    let people = pages.site.people();
    let fits_limits = name.len() <= NAME_BYTES_MAX && form.field("password").len() <= password::BYTES_MAX;
    let (asked, secret) = match fits_limits {
        true => (name.to_owned(), form.field("password").to_owned()),
        // Nobody's; it takes as long.
        false => (String::new(), String::new()),
    };
    let compared = tokio::task::spawn_blocking(move || {
        // It counts until it is done, whether somebody waits for it still or not.
        let _turn = turn;
        let found = people.verified(&asked, &secret).map(|person| (person.name.clone(), person.mark));
        (found, people.named(&asked).map(|person| person.name.clone()))
    });
    match compared.await {
        Ok((Some((name, mark)), _)) => Attempt::Succeeded { name, mark },
        Ok((None, known)) => Attempt::Failed { known },
        Err(error) => {
            error!(%error, "a password was not compared");
            Attempt::Busy
        }
    }
}

/// Ends the session.
pub(super) async fn log_out(State(pages): State<Pages>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(visitor) = pages.visitor(&parts.headers) else { return to("/login") };
    if let Err(fault) = own_form(&pages, &parts.headers, body, &visitor.form_token()).await {
        return refused(&pages, Some(&visitor), fault);
    }
    if let Some(token) = &visitor.token {
        pages.site.sessions.end(token);
    }
    if let Err(error) = pages.note(&visitor.activity("logout", "", "done")).await {
        error!(%error, "a logout could not be told");
    }
    let mut response = to("/login");
    response.headers_mut().append(SET_COOKIE, pages.set_cookie(pages.session_cookie(), None));
    response
}

/// A page of ours: never a whole URL, which would need the name that the client calls us by.
pub(super) fn to(path: &str) -> Response {
    let location = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()
}
