//! Who is logged in: random tokens, of which only digests are held.
//!
//! A session ends by logout, after some time without a request, some time after its login, and with any change of its
//! user (`people` gives each a mark that changes with password and roles). Everything is forgotten at a restart.
//! Neighbours: `login` begins and ends them, `guard` asks. Left out: cookies, clocks.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::password::random;

/// What a user is recognised by.
pub(super) type Mark = [u8; 32];

/// The secret of a session, in its cookie and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(String);

/// How long sessions last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) idle: Duration,
    pub(super) whole: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

#[derive(Debug, Clone)]
struct Session {
    user: String,
    mark: Mark,
    began: Instant,
    used: Instant,
}

/// Sessions of one user, and of all: with one more the one that was idle longest ends.
const OF_ONE_USER_MAX: usize = 16;
const SESSIONS_MAX: usize = 4096;

impl Token {
    pub(super) fn fresh() -> anyhow::Result<Self> {
        Ok(Self(hex(&random::<32>()?)))
    }

    /// As a cookie brings it; `None` for what was never one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_one = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        is_one.then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// What every form of the session carries: known to its pages alone, and no way back to the token.
    pub(super) fn form_token(&self) -> String {
        hex(&Sha256::digest(format!("sidelight form {}", self.0)))
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(format!("sidelight session {}", self.0)).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Sessions {
    /// A new session, always under a token of its own.
    pub(super) fn begin(&self, user: &str, mark: Mark, limits: Limits, now: Instant) -> anyhow::Result<Token> {
        let token = Token::fresh()?;
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.lasts(limits, now));
        let of_user = sessions.values().filter(|s| s.user == user).count();
        let crowded = |s: &Session| of_user < OF_ONE_USER_MAX || s.user == user;
        if of_user >= OF_ONE_USER_MAX || sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().filter(|(_, s)| crowded(s)).min_by_key(|(_, s)| s.used).map(|(key, _)| *key);
            oldest.map(|key| sessions.remove(&key));
        }
        sessions.insert(token.digest(), Session { user: user.to_owned(), mark, began: now, used: now });
        Ok(token)
    }

    /// The user of a session that lasts, and their mark at its login; it counts as used.
    pub(super) fn find(&self, token: &Token, limits: Limits, now: Instant) -> Option<(String, Mark)> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get_mut(&token.digest())?;
        if !session.lasts(limits, now) {
            sessions.remove(&token.digest());
            return None;
        }
        session.used = now;
        Some((session.user.clone(), session.mark))
    }

    pub(super) fn end(&self, token: &Token) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&token.digest());
    }

    /// Ends the sessions of users who are not the same any more.
    pub(super) fn keep(&self, is_same: impl Fn(&str, &Mark) -> bool) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| is_same(&session.user, &session.mark));
    }
}

impl Session {
    fn lasts(&self, limits: Limits, now: Instant) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        since(self.used) < limits.idle && since(self.began) < limits.whole
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { idle: Duration::from_secs(60), whole: Duration::from_secs(300) };

    #[test]
    fn a_session_ends_when_idle_at_its_limit_by_logout_and_with_its_user() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let user = |token: &Token, seconds| sessions.find(token, LIMITS, at(seconds)).map(|(user, _)| user);
        let anna = || Some("anna".to_owned());
        let token = sessions.begin("anna", [1; 32], LIMITS, start).unwrap();
        assert_eq!((user(&token, 59), user(&token, 118), user(&token, 178)), (anna(), anna(), None));
        assert_eq!(user(&token, 60), None, "it does not come back");
        let token = sessions.begin("anna", [1; 32], LIMITS, start).unwrap();
        for seconds in (0..300).step_by(50) {
            assert_eq!(user(&token, seconds), anna(), "{seconds}");
        }
        assert_eq!(user(&token, 300), None);
        let (one, two) =
            (sessions.begin("anna", [1; 32], LIMITS, start), sessions.begin("anna", [2; 32], LIMITS, start));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_ne!(one, two);
        sessions.keep(|_, mark| *mark == [2; 32]);
        assert_eq!((user(&one, 1), user(&two, 1)), (None, anna()));
        sessions.end(&two);
        assert_eq!(user(&two, 1), None);
    }

    #[test]
    fn a_token_is_never_held_and_is_not_what_forms_carry() {
        let sessions = Sessions::default();
        let token = sessions.begin("anna", [1; 32], LIMITS, Instant::now()).unwrap();
        let held = format!("{sessions:?} {token:?}");
        assert!(!held.contains(token.as_str()) && !held.contains(&token.form_token()), "{held}");
        assert_ne!(token.form_token(), token.as_str());
        assert_eq!(Token::parse(token.as_str()), Some(token.clone()));
        for text in ["", "x", &token.as_str().to_uppercase(), &token.as_str()[1..], &format!("{} ", token.as_str())] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
        let invented = Token::fresh().unwrap();
        assert_eq!(
            sessions.find(&invented, LIMITS, Instant::now()),
            None,
            "no session under a token that others chose"
        );
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let first = sessions.begin("anna", [1; 32], LIMITS, start).unwrap();
        let berta = sessions.begin("berta", [1; 32], LIMITS, start).unwrap();
        for i in 1..=OF_ONE_USER_MAX {
            sessions.begin("anna", [1; 32], LIMITS, at(i as u64)).unwrap();
        }
        assert!(sessions.find(&first, LIMITS, at(50)).is_none() && sessions.find(&berta, LIMITS, at(50)).is_some());
        for i in 0..SESSIONS_MAX {
            sessions.begin(&format!("u{i}"), [1; 32], LIMITS, at(100)).unwrap();
        }
        assert_eq!(sessions.0.lock().unwrap().len(), SESSIONS_MAX);
    }
}
