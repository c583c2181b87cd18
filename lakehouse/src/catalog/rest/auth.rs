//! Who we are to a REST catalog: nobody, a bearer token, or a client whose token is fetched by OAuth2 client credentials
//! and renewed before its time is over.

use std::time::{Duration, Instant};

use chainalytics_common::Result;
use reqwest::Client;
use tokio::sync::Mutex;

use super::RestOptions;
use super::body::TokenBody;
use super::http::{Failure, failure, refusal};
use crate::err;

/// A token is renewed so long before its end.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// Life of a token whose server does not tell.
const LIFE_DEFAULT: Duration = Duration::from_secs(3600);

pub(super) enum Auth {
    Nobody,
    Token(String),
    Client(Box<ClientCredentials>),
}

pub(super) struct ClientCredentials {
    url: String,
    id: Option<String>,
    secret: String,
    scope: String,
    current: Mutex<Option<(String, Instant)>>,
}

impl Auth {
    pub(super) fn new(options: &RestOptions, base: &str) -> Result<Self> {
        if !options.token.is_empty() {
            return Ok(Self::token(&options.token));
        }
        if options.credential.is_empty() {
            return Ok(Self::Nobody);
        }
        let (id, secret) = match options.credential.split_once(':') {
            Some((id, secret)) => (Some(id.to_owned()), secret.to_owned()),
            None => (None, options.credential.clone()),
        };
        if secret.is_empty() {
            return Err(err::config("catalog.rest.credential must be id:secret"));
        }
        let url = match options.oauth2_server_uri.as_str() {
            "" => format!("{base}/oauth/tokens"),
            own => own.to_owned(),
        };
        Ok(Self::Client(Box::new(ClientCredentials { url, id, secret, scope: options.scope.clone(), current: Mutex::new(None) })))
    }

    pub(super) fn token(token: &str) -> Self {
        Self::Token(token.to_owned())
    }

    /// Whether another token can be had.
    pub(super) fn renews(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    /// The token to send; a new one if the old was `refused` or is about to end.
    pub(super) async fn bearer(&self, http: &Client, refused: bool) -> Result<Option<String>, Failure> {
        let client = match self {
            Self::Nobody => return Ok(None),
            Self::Token(token) => return Ok(Some(token.clone())),
            Self::Client(client) => client,
        };
        let mut current = client.current.lock().await;
        if let Some((token, until)) = current.as_ref()
            && !refused
            && Instant::now() < *until
        {
            return Ok(Some(token.clone()));
        }
        let body = client.fetch(http).await?;
        let life = body.expires_in.map_or(LIFE_DEFAULT, Duration::from_secs);
        let until = Instant::now() + life.saturating_sub(RENEW_BEFORE.min(life / 2));
        *current = Some((body.access_token.clone(), until));
        Ok(Some(body.access_token))
    }
}

impl ClientCredentials {
    async fn fetch(&self, http: &Client) -> Result<TokenBody, Failure> {
        let mut form = vec![("grant_type", "client_credentials"), ("client_secret", self.secret.as_str())];
        if let Some(id) = &self.id {
            form.push(("client_id", id));
        }
        if !self.scope.is_empty() {
            form.push(("scope", &self.scope));
        }
        let response = http.post(&self.url).form(&form).send().await.map_err(failure)?;
        let status = response.status();
        let text = response.text().await.map_err(failure)?;
        if !status.is_success() {
            return Err(match refusal(status, &text) {
                // OAuth2 tells a wrong secret with 400 `invalid_client`.
                Failure::Refused { status: 400 | 401, kind, message } => Failure::Refused { status: 401, kind, message },
                other => other,
            });
        }
        serde_json::from_str(&text).map_err(|e| Failure::Refused { status: 401, kind: "UnreadableToken".to_owned(), message: e.to_string() })
    }
}
