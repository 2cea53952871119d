//! The XML API, as far as an archive's writer and readers go, by the stand-in's JSON API.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response, header};
use serde_json::{Value, json};
use uuid::Uuid;

/// What comes back of the stand-in's headers.
const KEPT: [&str; 7] = [
    "content-length",
    "content-range",
    "content-type",
    "etag",
    "last-modified",
    "x-goog-generation",
    "x-goog-hash",
];

/// Before one stand-in.
pub(super) struct XmlApi {
    stand_in: String,
    client: reqwest::Client,
    uploads: Mutex<HashMap<String, Upload>>,
}

/// An upload in parts, until it is complete.
struct Upload {
    headers: HeaderMap,
    parts: BTreeMap<u32, Bytes>,
}

/// Whose object.
struct Name {
    bucket: String,
    /// As in the path: percent-encoded.
    object: String,
}

type Answer = Result<Response<Bytes>, reqwest::Error>;

impl XmlApi {
    pub(super) fn new(stand_in: &str) -> Self {
        let (client, uploads) = (reqwest::Client::new(), Mutex::default());
        Self { stand_in: stand_in.to_owned(), client, uploads }
    }

    pub(super) async fn make_bucket(&self, name: &str) -> Result<(), reqwest::Error> {
        let url = format!("{}/storage/v1/b?project=tests", self.stand_in);
        let made = self.client.post(url).json(&json!({"name": name})).send().await?;
        made.error_for_status().map(|_| ())
    }

    pub(super) async fn answer(&self, parts: &Parts, body: Bytes) -> Answer {
        let name = Name::of(parts.uri.path());
        let query: HashMap<_, _> = pairs(parts.uri.query().unwrap_or_default()).collect();
        let headers = &parts.headers;
        let upload = query.get("uploadId").copied();
        match (&parts.method, upload) {
            (&Method::POST, None) if query.contains_key("uploads") => Ok(self.begin(headers)),
            (&Method::POST, Some(upload)) => self.complete(&name, upload).await,
            (&Method::DELETE, Some(upload)) => {
                self.uploads().remove(upload);
                Ok(status(204))
            }
            (&Method::PUT, Some(upload)) => {
                let number = query.get("partNumber").and_then(|number| number.parse().ok());
                Ok(self.put_part(upload, number.unwrap_or_default(), headers, body))
            }
            (&Method::PUT, None) => match headers.get("x-goog-copy-source") {
                Some(source) => {
                    self.copy(source.to_str().unwrap_or_default(), &name, headers).await
                }
                None => self.put(&name, headers, body).await,
            },
            _ => self.read(parts, &name).await,
        }
    }

    fn begin(&self, headers: &HeaderMap) -> Response<Bytes> {
        let id = Uuid::new_v4().simple().to_string();
        let upload = Upload { headers: headers.clone(), parts: BTreeMap::new() };
        self.uploads().insert(id.clone(), upload);
        xml(
            200,
            &format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ),
        )
    }

    fn put_part(
        &self,
        upload: &str,
        number: u32,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Response<Bytes> {
        let mut uploads = self.uploads();
        let Some(upload) = uploads.get_mut(upload) else { return error(404, "NoSuchUpload") };
        if !has_checksum(headers, &body) {
            return error(400, "BadDigest");
        }
        upload.parts.insert(number, body);
        with_etag(&format!("part-{number}"))
    }

    /// Replaces what is there, as the real one does.
    async fn complete(&self, name: &Name, upload: &str) -> Answer {
        let Some(upload) = self.uploads().remove(upload) else {
            return Ok(error(404, "NoSuchUpload"));
        };
        let whole: Vec<u8> = upload.parts.into_values().flatten().collect();
        let stored = self.store(name, &upload.headers, whole.into(), false).await?;
        if !stored.status().is_success() {
            return Ok(stored);
        }
        Ok(xml(
            200,
            "<CompleteMultipartUploadResult><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>",
        ))
    }

    async fn put(&self, name: &Name, headers: &HeaderMap, body: Bytes) -> Answer {
        if !has_checksum(headers, &body) {
            return Ok(error(400, "BadDigest"));
        }
        self.store(name, headers, body, is_create(headers)).await
    }

    async fn copy(&self, source: &str, to: &Name, headers: &HeaderMap) -> Answer {
        let source = Name::of(&format!("/{source}"));
        let found =
            self.client.get(format!("{}?alt=media", self.object_url(&source))).send().await?;
        if !found.status().is_success() {
            return Ok(error(404, "NoSuchKey"));
        }
        self.store(to, headers, found.bytes().await?, is_create(headers)).await
    }

    /// By the one kind of upload whose precondition the stand-in keeps.
    async fn store(&self, name: &Name, headers: &HeaderMap, body: Bytes, create: bool) -> Answer {
        let class = headers.get("x-goog-storage-class").and_then(|class| class.to_str().ok());
        let mut metadata = json!({"name": decoded(&name.object)});
        if let Some(class) = class {
            metadata["storageClass"] = json!(class);
        }
        let boundary = Uuid::new_v4().simple().to_string();
        let precondition = if create { "&ifGenerationMatch=0" } else { "" };
        let Name { bucket, .. } = name;
        let url = format!(
            "{}/upload/storage/v1/b/{bucket}/o?uploadType=multipart{precondition}",
            self.stand_in
        );
        let uploaded = self.client.post(url);
        let uploaded = uploaded
            .header(header::CONTENT_TYPE, format!("multipart/related; boundary={boundary}"))
            .body(multipart(&boundary, &metadata, &body))
            .send()
            .await?;
        Ok(match uploaded.status().as_u16() {
            200 => with_etag(uploaded.json::<Value>().await?["etag"].as_str().unwrap_or_default()),
            404 => error(404, "NoSuchBucket"),
            412 => error(412, "PreconditionFailed"),
            other => error(other, "InternalError"),
        })
    }

    /// The stand-in reads, lists and deletes by the XML API, but does not say what is missing.
    async fn read(&self, parts: &Parts, name: &Name) -> Answer {
        let answer = self.pass(parts).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let bucket = format!("{}/storage/v1/b/{}", self.stand_in, name.bucket);
        match (self.client.get(bucket).send().await?.status().as_u16(), answer.status().as_u16()) {
            (404, _) => Ok(error(404, "NoSuchBucket")),
            (_, 404) => Ok(error(404, "NoSuchKey")),
            _ => Ok(answer),
        }
    }

    async fn pass(&self, parts: &Parts) -> Answer {
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let request =
            self.client.request(parts.method.clone(), format!("{}{target}", self.stand_in));
        let mut headers = parts.headers.clone();
        headers.remove(header::HOST);
        let passed = request.headers(headers).send().await?;
        let mut answer = Response::builder().status(passed.status());
        for name in KEPT {
            if let Some(value) = passed.headers().get(name) {
                answer = answer.header(name, value);
            }
        }
        Ok(answer.body(passed.bytes().await?).unwrap_or_else(|_| status(500)))
    }

    fn object_url(&self, name: &Name) -> String {
        format!("{}/storage/v1/b/{}/o/{}", self.stand_in, name.bucket, name.object)
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Name {
    /// `/bucket/object`, the object as one percent-encoded segment.
    fn of(path: &str) -> Self {
        let path = path.trim_start_matches('/');
        let (bucket, object) = path.split_once('/').unwrap_or((path, ""));
        Self { bucket: decoded(bucket), object: object.to_owned() }
    }
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn is_create(headers: &HeaderMap) -> bool {
    headers.get("x-goog-if-generation-match").is_some_and(|generation| generation == "0")
}

/// None is asked for, as none is by the real one; a wrong one is refused.
fn has_checksum(headers: &HeaderMap, body: &[u8]) -> bool {
    let Some(hash) = headers.get("x-goog-hash") else { return true };
    let checksum = BASE64_STANDARD.encode(crc32c::crc32c(body).to_be_bytes());
    hash.as_bytes() == format!("crc32c={checksum}").as_bytes()
}

fn multipart(boundary: &str, metadata: &Value, content: &[u8]) -> Vec<u8> {
    let head = format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{metadata}\r\n\
         --{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
    );
    [head.as_bytes(), content, format!("\r\n--{boundary}--\r\n").as_bytes()].concat()
}

/// An error as the real one answers it.
pub(super) fn error(status: u16, code: &str) -> Response<Bytes> {
    xml(status, &format!("<Error><Code>{code}</Code><Message>{status}</Message></Error>"))
}

fn xml(code: u16, body: &str) -> Response<Bytes> {
    let text = format!("<?xml version='1.0' encoding='UTF-8'?>{body}");
    let mut answer = status(code);
    *answer.body_mut() = Bytes::from(text);
    answer
}

fn with_etag(etag: &str) -> Response<Bytes> {
    let answer = Response::builder().header(header::ETAG, format!("\"{etag}\""));
    answer.body(Bytes::new()).unwrap_or_else(|_| status(500))
}

fn status(code: u16) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    answer
}
