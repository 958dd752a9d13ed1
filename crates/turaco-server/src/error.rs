//! Every failure as the answer that OpenAI's clients know.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use turaco::Error;

/// What a client is told when something cannot be done.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// The status of the answer.
    pub status: StatusCode,
    /// A stable machine-readable name.
    pub code: &'static str,
    /// What is wrong, for people.
    pub message: String,
    /// The field that is to blame.
    pub param: Option<String>,
    /// What only the log is told.
    pub details: Option<String>,
}

/// The status for a client that went away; it is logged and never sent.
pub const CLIENT_GONE: u16 = 499;

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            param: None,
            details: None,
        }
    }

    /// A field has a value that cannot be used.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", message).about(param)
    }

    /// A field has a value that is known, but not here.
    pub fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unsupported_value", message).about(param)
    }

    /// A field is not there.
    pub fn missing(param: &str) -> Self {
        let message = format!("`{param}` is required");
        Self::new(
            StatusCode::BAD_REQUEST,
            "missing_required_parameter",
            message,
        )
        .about(param)
    }

    /// A request that is no request of its kind at all.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", message)
    }

    /// No or a wrong key.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "the API key is missing or wrong: send `Authorization: Bearer KEY`",
        )
    }

    /// A page of another origin.
    pub fn foreign_origin() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "origin_not_allowed",
            "pages of this origin may not use the server; whoever runs it can allow them",
        )
    }

    /// There is nothing of this name.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// There is no voice of this name.
    pub fn no_voice(name: &str) -> Self {
        let message = format!("there is no voice `{name}`; GET /v1/audio/voices lists them");
        Self::new(StatusCode::NOT_FOUND, "voice_not_found", message).about("voice")
    }

    /// There is something there, but not for this method.
    pub fn wrong_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path does not know this method",
        )
    }

    /// More bytes than the server takes.
    pub fn too_large(limit: u64) -> Self {
        let message = format!("the upload is larger than the limit of {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "file_too_large", message).about("file")
    }

    /// A body of another kind than the route takes.
    pub fn wrong_type(wanted: &str) -> Self {
        let message = format!("the body has to be {wanted}");
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            message,
        )
    }

    /// As much work as the server takes is on its way.
    pub fn queue_full() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "queue_full",
            "as many requests as the server takes are waiting; try again",
        )
    }

    /// As many live sessions as the server takes are open.
    pub fn too_many_sessions() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_sessions",
            "as many sessions as the server takes are open; try again",
        )
    }

    /// The upload or the work took too long.
    pub fn timed_out(message: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    }

    /// The same error, unless what took too long was a model on its way into memory: that will be there for those who ask again.
    #[must_use]
    pub fn while_loading(self, is_loading: bool) -> Self {
        match is_loading && self.status == StatusCode::REQUEST_TIMEOUT {
            true => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "model_loading",
                "the model is still being loaded; try again",
            )
            .about("model"),
            false => self,
        }
    }

    /// The server is on its way out.
    pub fn shutting_down() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "shutting_down",
            "the server is shutting down",
        )
    }

    /// A mistake of the server.
    pub fn internal(details: impl Into<String>) -> Self {
        Self {
            details: Some(details.into()),
            ..Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "something went wrong in the server; its log says what, under the request id",
            )
        }
    }

    /// Something of a conversation failed that goes on; `details` are for the log alone.
    pub fn failed(code: &'static str, details: impl Into<String>) -> Self {
        let message = match code {
            "llm_error" => "the model that answers failed; the server's log says why",
            "transcription_failed" => "this could not be written down; the server's log says why",
            _ => return Self::internal(details).coded(code),
        };
        Self {
            details: Some(details.into()),
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, message)
        }
    }

    fn coded(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// There is no room in memory for a recording: not for it alone, or not beside those of others.
    pub fn no_room(is_alone: bool) -> Self {
        match is_alone {
            true => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "file_too_large",
                "the recording is too long for the memory of this server; send it in parts",
            ),
            false => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "out_of_memory",
                "the recordings of other requests fill the memory that there is for them; try again",
            ),
        }
        .about("file")
    }

    /// Name the field that is to blame.
    #[must_use]
    pub fn about(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// The class of the error, as OpenAI's clients know it.
    pub fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// `{"message", "type", "param", "code"}`.
    pub fn body(&self) -> Value {
        json!({
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.code,
        })
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {}: {}",
            self.status.as_u16(),
            self.code,
            self.message
        )?;
        match &self.details {
            Some(details) => write!(f, " ({details})"),
            None => Ok(()),
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let code = error.code();
        match &error {
            Error::InvalidOption { option, .. } => Self::invalid(option, error.to_string()),
            Error::ModelNotFound { model, message } => {
                let message = format!("model `{model}` not found: {message}");
                Self::new(StatusCode::NOT_FOUND, code, message).about("model")
            }
            Error::Offline { .. } => {
                Self::new(StatusCode::NOT_FOUND, "model_not_found", error.to_string())
                    .about("model")
            }
            Error::UnsupportedTask { .. } => {
                Self::new(StatusCode::BAD_REQUEST, code, error.to_string()).about("model")
            }
            Error::Voice { message, .. } => {
                Self::new(StatusCode::BAD_REQUEST, code, message).about("voice")
            }
            Error::Audio { .. } => {
                Self::new(StatusCode::BAD_REQUEST, code, error.to_string()).about("file")
            }
            Error::Memory { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string())
            }
            Error::Busy { message } => {
                let message = format!("{message}; try again");
                Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)
            }
            Error::Cancelled => Self::new(
                StatusCode::from_u16(CLIENT_GONE).unwrap_or(StatusCode::BAD_REQUEST),
                "cancelled",
                "the request was cancelled",
            ),
            _ => {
                let mut details = error.to_string();
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    details.push_str(&format!(": {cause}"));
                    source = cause.source();
                }
                Self::internal(details)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({"error": self.body()}))).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS
            || self.status == StatusCode::SERVICE_UNAVAILABLE
        {
            let seconds = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        // The layer that logs and counts reads it there.
        response.extensions_mut().insert(self);
        response
    }
}
