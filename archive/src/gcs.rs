//! Cloud Storage by object_store, and what that leaves out: with everything that is uploaded goes a checksum, which
//! the store compares before it takes it; and new objects get the storage class and the key of the settings.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderName, HeaderValue, Method, header::InvalidHeaderValue};
use http_body_util::BodyExt;
use object_store::{
    ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider,
    client::{
        HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService,
        ReqwestConnector,
    },
    gcp::{GcpCredential, GoogleCloudStorageBuilder},
    path::Path,
    prefix::PrefixStore,
};

use crate::config::ArchiveConfig;

const HASH: HeaderName = HeaderName::from_static("x-goog-hash");
const STORAGE_CLASS: HeaderName = HeaderName::from_static("x-goog-storage-class");
const KMS_KEY: HeaderName = HeaderName::from_static("x-goog-encryption-kms-key-name");
const COPY_SOURCE: HeaderName = HeaderName::from_static("x-goog-copy-source");

/// A request that is answered with 429 or 5xx is sent again so often and for so long: a hiccup. What lasts longer is
/// for the caller to wait for.
const RETRIES_MAX: usize = 4;
const RETRY_WITHIN: Duration = Duration::from_secs(60);
/// A store that says nothing for so long is taken for dead. There is no limit to a whole answer: objects may be large.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What storing costs, and what reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StorageClass {
    Standard,
    Nearline,
    Coldline,
    Archive,
}

impl StorageClass {
    fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Standard => "STANDARD",
            Self::Nearline => "NEARLINE",
            Self::Coldline => "COLDLINE",
            Self::Archive => "ARCHIVE",
        })
    }
}

/// A key of Cloud KMS, by its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsKey(String);

/// The text names no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY")]
pub struct InvalidKmsKey;

impl FromStr for KmsKey {
    type Err = InvalidKmsKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let ["projects", project, "locations", location, "keyRings", ring, "cryptoKeys", key] =
            parts[..]
        else {
            return Err(InvalidKmsKey);
        };
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        let named = |part: &str| !part.is_empty() && part.bytes().all(is_name);
        if [project, location, ring, key].into_iter().all(named) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidKmsKey)
        }
    }
}

impl fmt::Display for KmsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Opens a bucket. Nothing is asked of it yet.
pub(crate) fn open(
    bucket: &str,
    prefix: &str,
    config: &ArchiveConfig,
) -> Result<Arc<dyn ObjectStore>, Box<dyn std::error::Error>> {
    let retry = RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_WITHIN,
        ..RetryConfig::default()
    };
    let mut client = ClientOptions::new().with_timeout_disabled().with_read_timeout(SILENCE_MAX);
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retry)
        .with_http_connector(UploadHeaders::of(config)?);
    if let Some(endpoint) = &config.archive_endpoint {
        let nobody = GcpCredential { bearer: String::new() };
        client = client.with_allow_http(true);
        builder = builder
            .with_base_url(endpoint)
            .with_skip_signature(true)
            // Uploads ask for credentials even so.
            .with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
    }
    let bucket = builder.with_client_options(client).build()?;
    Ok(match prefix {
        "" => Arc::new(bucket),
        prefix => Arc::new(PrefixStore::new(bucket, Path::parse(prefix)?)),
    })
}

/// Adds its headers to the requests that upload.
#[derive(Clone, Debug)]
struct UploadHeaders {
    storage_class: Option<HeaderValue>,
    kms_key: Option<HeaderValue>,
}

impl UploadHeaders {
    fn of(config: &ArchiveConfig) -> Result<Self, InvalidHeaderValue> {
        let kms_key = config.archive_kms_key.as_ref().map(|key| HeaderValue::from_str(&key.0));
        let storage_class = config.archive_storage_class.map(StorageClass::header);
        Ok(Self { storage_class, kms_key: kms_key.transpose()? })
    }

    async fn add(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        if request.method() == Method::PUT && !request.headers().contains_key(COPY_SOURCE) {
            let hash = hash(request).await?;
            request.headers_mut().insert(HASH, hash);
        }
        if makes_object(request) {
            let headers = request.headers_mut();
            headers.extend(self.storage_class.clone().map(|class| (STORAGE_CLASS, class)));
            headers.extend(self.kms_key.clone().map(|key| (KMS_KEY, key)));
        }
        Ok(())
    }
}

/// Of the whole body, which is in memory.
async fn hash(request: &HttpRequest) -> Result<HeaderValue, HttpError> {
    let body = request.body().clone().collect().await?.to_bytes();
    let checksum = BASE64_STANDARD.encode(crc32c::crc32c(&body).to_be_bytes());
    HeaderValue::from_str(&format!("crc32c={checksum}"))
        .map_err(|error| HttpError::new(object_store::client::HttpErrorKind::Unknown, error))
}

/// An object, a copy, or the begin of an upload in parts; not a part, nor the end of it.
fn makes_object(request: &HttpRequest) -> bool {
    let has = |name: &str| {
        let mut pairs = request.uri().query().unwrap_or_default().split('&');
        pairs.any(|pair| pair.split('=').next() == Some(name))
    };
    match *request.method() {
        Method::PUT => !has("uploadId"),
        Method::POST => has("uploads"),
        _ => false,
    }
}

#[derive(Debug)]
struct Client {
    inner: HttpClient,
    headers: UploadHeaders,
}

impl HttpConnector for UploadHeaders {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Client { inner, headers: self.clone() }))
    }
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.headers.add(&mut request).await?;
        self.inner.execute(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_in_full() {
        let key = "projects/p-1/locations/europe/keyRings/r/cryptoKeys/k_2";
        assert_eq!(key.parse::<KmsKey>().unwrap().to_string(), key);
        for text in ["", "k", "projects/p/locations//keyRings/r/cryptoKeys/k", &key[9..]] {
            assert_eq!(text.parse::<KmsKey>(), Err(InvalidKmsKey), "{text}");
        }
        assert!(format!("{key}/cryptoKeyVersions/1").parse::<KmsKey>().is_err());
        assert!(format!("{key}\n").parse::<KmsKey>().is_err());
    }
}
