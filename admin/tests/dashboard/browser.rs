//! A browser of the test's own: chromedriver on a free port, Chromium with an empty profile; both end with the test.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder};
use serde_json::json;

/// High enough for the whole page: a picture shows only the window.
const HEIGHT: u32 = 2700;

/// The colour scheme that the browser requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Theme {
    Light,
    Dark,
}

pub(crate) struct Browser {
    pub(crate) client: Client,
    driver: Child,
    port: u16,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None`, with a message, if no browser is installed.
    pub(crate) async fn start(width: u32, theme: Theme) -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let (driver, port) = start_driver()?;
        let mut args = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--disable-quic".into(),
            "--no-first-run".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--disable-sync".into(),
            "--disable-dev-shm-usage".into(),
            "--hide-scrollbars".into(),
            format!("--window-size={width},{HEIGHT}"),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        if theme == Theme::Dark {
            args.push("--blink-settings=preferredColorScheme=0".into());
        }
        let mut options = json!({"args": args});
        if width < 500 {
            // A window cannot be as narrow as a phone: the device is emulated.
            options["mobileEmulation"] =
                json!({"deviceMetrics": {"width": width, "height": 2 * HEIGHT, "pixelRatio": 1.0}});
        }
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".into(), options);
        capabilities.insert("goog:loggingPrefs".into(), json!({"browser": "ALL"}));
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        Some(Self {
            client,
            driver,
            port,
            _profile: profile,
        })
    }

    pub(crate) async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// Runs a script's body and returns its result.
    pub(crate) async fn run(&self, script: &str) -> serde_json::Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits until an expression is true on the page.
    pub(crate) async fn wait_for(&self, expression: &str) {
        let start = Instant::now();
        loop {
            let holds = self
                .client
                .execute(&format!("return !!({expression})"), Vec::new())
                .await;
            if holds.as_ref().is_ok_and(|value| value == &json!(true)) {
                return;
            }
            if start.elapsed() > tagcache_tests::DEADLINE {
                let page = self.run("return document.body.innerText").await;
                panic!("waited in vain for {expression} ({holds:?}) on the page:\n{page}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The text of the element with this id.
    pub(crate) async fn text(&self, id: &str) -> String {
        let text = self
            .run(&format!("return document.getElementById('{id}').innerText"))
            .await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Saves a picture of the whole page if `TAGCACHE_SCREENSHOTS` names a directory.
    pub(crate) async fn picture(&self, name: &str) {
        let Some(dir) = std::env::var_os("TAGCACHE_SCREENSHOTS") else {
            return;
        };
        std::fs::create_dir_all(&dir).unwrap();
        let body = self
            .client
            .find(fantoccini::Locator::Css("html"))
            .await
            .unwrap();
        let png = body.screenshot().await.unwrap();
        std::fs::write(Path::new(&dir).join(format!("{name}.png")), png).unwrap();
    }

    /// Ends the browser, after checking that the page fits its width, violated no rule of its policy and threw no
    /// exception.
    pub(crate) async fn end(self) {
        let wide = self.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
        assert_eq!(wide, json!(0), "the page is wider than its window");
        let complaints = self.complaints().await;
        let complaints: Vec<_> = complaints
            .iter()
            .filter(|entry| {
                let message = entry["message"].as_str().unwrap_or_default();
                // Some tests stop the endpoint or make it refuse, which is no fault of the page.
                let serious = entry["level"] == "SEVERE" || entry["level"] == "WARNING";
                serious && !message.contains("Failed to load resource")
            })
            .collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
        self.client.clone().close().await.unwrap();
    }

    /// The browser's log: violated policies, uncaught exceptions, warnings.
    async fn complaints(&self) -> Vec<serde_json::Value> {
        let session = self.client.session_id().await.unwrap().unwrap();
        let log = format!("http://127.0.0.1:{}/session/{session}/se/log", self.port);
        let mut answer = ureq::post(&log)
            .send_json(json!({"type": "browser"}))
            .unwrap();
        let answer: serde_json::Value = answer.body_mut().read_json().unwrap();
        answer["value"].as_array().unwrap().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // On a request to shut down it also ends the browser that it started; a kill would not.
        let asked = TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut stream| {
            stream.write_all(b"GET /shutdown HTTP/1.1\r\nHost: localhost\r\n\r\n")
        });
        let start = Instant::now();
        while asked.is_ok() && start.elapsed() < tagcache_tests::DEADLINE {
            if !matches!(self.driver.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// chromedriver and its port; `None`, with a message, if it is not installed.
fn start_driver() -> Option<(Child, u16)> {
    for _ in 0..5 {
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut driver) = driver else {
            eprintln!(
                "skipped: chromedriver is not installed (Debian's packages chromium and chromium-driver)"
            );
            return None;
        };
        if let Some(port) = port_of(&mut driver) {
            return Some((driver, port));
        }
        // Another process took the port between chromedriver's choice of it and its use.
        let status = driver.wait().unwrap();
        eprintln!("chromedriver ended ({status}) before it named its port: once more");
    }
    panic!("chromedriver does not start");
}

/// `None` if chromedriver ended before.
fn port_of(driver: &mut Child) -> Option<u16> {
    let output = BufReader::new(driver.stdout.take().unwrap());
    let marker = "was started successfully on port ";
    let mut lines = output.lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains(marker))?;
    // Its output must be read further, or it would block.
    std::thread::spawn(move || lines.for_each(drop));
    let port = line.split(marker).nth(1)?;
    port.trim_end_matches('.').parse().ok()
}
