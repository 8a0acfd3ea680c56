use fantoccini::Locator;
use tagcache::{Cache, Entry};
use tagcache_admin::http::{Auth, Denied};
use tagcache_tests::Server;

use crate::browser::{Browser, Theme};
use crate::page::{Page, TOKEN};

pub(crate) const DESKTOP: u32 = 1280;
pub(crate) const PHONE: u32 = 360;

/// A server with an entry that was read.
pub(crate) fn server() -> Server {
    let server = Server::start();
    let mut connection = server.connection();
    for i in 0..200 {
        redis::cmd("CACHE.SET")
            .arg(format!("page:/tenants/{}/invoices/{i}", i % 7))
            .arg("x".repeat(100 + i % 50 * 40))
            .arg("TAGS")
            .arg(2)
            .arg(format!("tenant:{}", i % 7))
            .arg("kind:page")
            .exec(&mut connection)
            .unwrap();
    }
    server
}

pub(crate) fn read(server: &Server, times: usize) {
    let mut connection = server.connection();
    for i in 0..times {
        let key = format!("page:/tenants/{}/invoices/{i}", i % 7);
        let _: Option<String> = redis::cmd("CACHE.GET")
            .arg(key)
            .query(&mut connection)
            .unwrap();
    }
}

async fn sign_in(browser: &Browser, token: &str) {
    browser
        .wait_for("!document.getElementById('sign-in').hidden")
        .await;
    let input = browser.client.find(Locator::Id("token")).await.unwrap();
    input.send_keys(token).await.unwrap();
    // By the keyboard, as every form should allow.
    input.send_keys("\u{e007}").await.unwrap();
}

/// Opens the page and signs in; `None` if no browser is installed.
pub(crate) async fn shown(page: &Page, width: u32, theme: Theme) -> Option<Browser> {
    let browser = Browser::start(width, theme).await?;
    browser.open(&page.url()).await;
    sign_in(&browser, TOKEN).await;
    browser
        .wait_for("!document.getElementById('content').hidden")
        .await;
    Some(browser)
}

pub(crate) fn token() -> Auth {
    Auth::bearer(TOKEN).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_page_shows_the_figures_of_the_guide() {
    let server = server();
    let page = Page::start(61.0, server.port(), token()).await;
    read(&server, 250);
    let Some(browser) = shown(&page, DESKTOP, Theme::Light).await else {
        return;
    };
    assert_eq!(browser.text("status").await, "HEALTHY");
    assert!(browser.text("heap-used").await.ends_with(" MB"));
    assert!(browser.text("heap-percent").await.starts_with('6'));
    assert_eq!(browser.text("entries").await, "15");
    assert_eq!(browser.text("redis").await, "Connected");
    browser
        .wait_for("document.getElementById('live').innerText.startsWith('Live')")
        .await;
    browser
        .wait_for("document.getElementById('instances').innerText.includes('web-1')")
        .await;
    // Keys are data, never markup.
    assert!(
        browser
            .text("local")
            .await
            .contains("<script>alert(1)</script>")
    );
    redis::cmd("CACHE.INVALIDATE")
        .arg("tenant:1")
        .exec(&mut server.connection())
        .unwrap();
    // Enough samples for lines in the charts, which the page then requests again.
    tagcache_tests::wait_until("samples", tagcache_tests::DEADLINE, || page.samples() > 40);
    browser.open(&page.url()).await;
    browser
        .wait_for("document.querySelectorAll('.chart svg').length >= 3")
        .await;
    browser
        .wait_for(
            "document.querySelector('.chart title').textContent.startsWith('Memory over the last')",
        )
        .await;
    browser.picture("healthy").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_changes_appear_without_a_reload() {
    let server = server();
    let page = Page::start(86.5, server.port(), token()).await;
    let Some(browser) = shown(&page, DESKTOP, Theme::Dark).await else {
        return;
    };
    browser
        .wait_for("document.getElementById('status').innerText === 'WARNING'")
        .await;
    browser
        .wait_for("document.getElementById('alerts').innerText.includes('firing')")
        .await;
    tagcache_tests::wait_until("samples", tagcache_tests::DEADLINE, || page.samples() > 40);
    browser.open(&page.url()).await;
    browser
        .wait_for("document.querySelectorAll('.chart svg').length >= 2")
        .await;
    browser
        .wait_for("document.getElementById('status').innerText === 'WARNING'")
        .await;
    browser.picture("warning-dark").await;
    page.set(97.0);
    browser
        .wait_for("document.getElementById('status').innerText === 'CRITICAL'")
        .await;
    browser
        .wait_for("document.querySelector('#status.critical')")
        .await;
    browser.picture("critical-dark").await;
    page.set(50.0);
    browser
        .wait_for("document.getElementById('status').innerText === 'HEALTHY'")
        .await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_fits_a_phone_without_horizontal_scrolling() {
    let server = server();
    let page = Page::start(97.5, server.port(), token()).await;
    read(&server, 300);
    let Some(browser) = shown(&page, PHONE, Theme::Light).await else {
        return;
    };
    assert_eq!(browser.text("status").await, "CRITICAL");
    tagcache_tests::wait_until("samples", tagcache_tests::DEADLINE, || page.samples() > 40);
    browser.open(&page.url()).await;
    browser
        .wait_for("document.querySelectorAll('.chart svg').length >= 2")
        .await;
    browser.picture("critical-phone").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_loss_and_return_of_the_server() {
    let mut server = server();
    let page = Page::start(40.0, server.port(), token()).await;
    let Some(browser) = shown(&page, DESKTOP, Theme::Light).await else {
        return;
    };
    browser
        .wait_for("document.getElementById('redis').innerText === 'Connected'")
        .await;
    server.stop();
    browser
        .wait_for("document.getElementById('redis').innerText === 'Disconnected'")
        .await;
    browser
        .wait_for("document.getElementById('redis-error').innerText !== ''")
        .await;
    assert_eq!(browser.text("status").await, "HEALTHY");
    assert_eq!(browser.text("keys").await, "unknown");
    browser
        .wait_for("document.getElementById('alerts').innerText.includes('Redis Away')")
        .await;
    browser.picture("redis-down").await;
    server.restart();
    browser
        .wait_for("document.getElementById('redis').innerText === 'Connected'")
        .await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_no_figures_before_sign_in() {
    let server = server();
    let page = Page::start(40.0, server.port(), token()).await;
    let Some(browser) = Browser::start(DESKTOP, Theme::Light).await else {
        return;
    };
    browser.open(&page.url()).await;
    browser
        .wait_for("!document.getElementById('sign-in').hidden")
        .await;
    browser
        .wait_for("document.activeElement.id === 'token'")
        .await;
    sign_in(&browser, "not-the-token-of-the-test").await;
    browser
        .wait_for("document.getElementById('sign-in-error').innerText !== ''")
        .await;
    let text = browser.run("return document.body.innerText").await;
    assert!(!text.as_str().unwrap().contains("MB"), "{text}");
    browser.picture("unauthorised").await;
    sign_in(&browser, TOKEN).await;
    browser
        .wait_for("!document.getElementById('content').hidden")
        .await;
    // Signing out deletes the token, also for the next load.
    browser
        .client
        .find(Locator::Id("sign-out"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    browser.open(&page.url()).await;
    browser
        .wait_for("!document.getElementById('sign-in').hidden")
        .await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_keeps_the_last_figures_if_the_endpoint_fails() {
    let server = server();
    let mut page = Page::start(40.0, server.port(), Auth::insecure_on_loopback()).await;
    let Some(browser) = Browser::start(PHONE, Theme::Dark).await else {
        return;
    };
    browser.open(&page.url()).await;
    browser
        .wait_for("!document.getElementById('content').hidden")
        .await;
    page.stop();
    // The page keeps its figures and shows that they are old.
    browser
        .wait_for("!document.getElementById('failure').hidden")
        .await;
    assert_eq!(
        browser.text("failure-title").await,
        "Failed to fetch memory stats"
    );
    assert!(!browser.text("heap-used").await.is_empty());
    browser.picture("failed-phone-dark").await;
    // The stream reconnects by itself; the page does not only poll once per minute.
    page.restart().await;
    browser
        .wait_for("document.getElementById('live').innerText === 'Live'")
        .await;
    browser
        .wait_for("document.getElementById('failure').hidden")
        .await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_counters_and_server_states_of_the_client() {
    let mut server = server();
    let url = format!("redis://127.0.0.1:{}", server.port());
    let cache = Cache::builder(url.as_str()).build().await.unwrap();
    cache.ready(tagcache_tests::DEADLINE).await.unwrap();
    let entry = Entry::ttl(std::time::Duration::from_secs(60)).tags(["kind:report"]);
    let load = async || Ok::<_, std::io::Error>(7);
    cache.get_or_load("report", entry, load).await.unwrap();
    let page = Page::with_cache(cache.clone(), server.port(), token()).await;
    let Some(browser) = shown(&page, DESKTOP, Theme::Light).await else {
        return;
    };
    let loads = "[...document.querySelectorAll('#counts tr')].find((row) => row.innerText.startsWith('Loads\\t')).innerText";
    browser.wait_for(&format!("{loads} === 'Loads\\t1'")).await;
    browser
        .wait_for("document.querySelector('#servers .badge.healthy')?.innerText === 'up'")
        .await;
    // Through the cache: the tag's entry leaves the server.
    let tag = browser.client.find(Locator::Id("tag")).await.unwrap();
    tag.send_keys("kind:report\u{e007}").await.unwrap();
    browser
        .wait_for("document.getElementById('control-result').innerText === '1 entry dropped.'")
        .await;
    assert_eq!(cache.get::<i32>("report").await.unwrap(), None);
    server.stop();
    browser
        .wait_for("document.querySelector('#servers .badge.critical')?.innerText === 'down'")
        .await;
    browser.picture("application-server-down").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_user_sees_not_allowed() {
    let server = server();
    let auth = Auth::predicate(|_| Err(Denied::Forbidden));
    let page = Page::start(40.0, server.port(), auth).await;
    let Some(browser) = Browser::start(DESKTOP, Theme::Light).await else {
        return;
    };
    browser.open(&page.url()).await;
    browser
        .wait_for("document.getElementById('failure-title').innerText === 'Not allowed'")
        .await;
    assert_eq!(browser.text("heap-used").await, "");
    assert_eq!(
        browser
            .run("return document.getElementById('content').hidden")
            .await,
        true
    );
    browser.picture("forbidden").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_content_is_shown_as_text_and_fits_the_page() {
    let server = server();
    let markup = "<img src=x onerror='window.broken = 1'><script>window.broken = 1</script>";
    let page = Page::start(40.0, server.port(), token()).await;
    let mut connection = server.connection();
    let long = "k".repeat(10_000);
    for key in [markup, &long, "\u{202e}gnp.exe", "مفتاح/7", "a\nb"] {
        let tag: String = key.chars().take(400).collect();
        redis::cmd("CACHE.SET")
            .arg(key)
            .arg("v".repeat(9_000))
            .arg("TAGS")
            .arg(1)
            .arg(tag)
            .exec(&mut connection)
            .unwrap();
        redis::cmd("CACHE.GET")
            .arg(key)
            .exec(&mut connection)
            .unwrap();
    }
    let instance = serde_json::json!({"instance": markup, "status": "healthy"});
    redis::cmd("CACHE.SET")
        .arg("tagcache:instance:of-somebody-else")
        .arg(instance.to_string())
        .arg(&["TAGS", "1", "tagcache:instances"])
        .exec(&mut connection)
        .unwrap();
    let Some(browser) = shown(&page, PHONE, Theme::Dark).await else {
        return;
    };
    for id in ["top", "tags", "instances"] {
        browser
            .wait_for(&format!(
                "document.getElementById('{id}').innerText.includes('<script>window.broken')"
            ))
            .await;
    }
    let found = browser
        .run("return [window.broken ?? null, document.querySelectorAll('main img, main script').length]")
        .await;
    assert_eq!(found, serde_json::json!([null, 0]));
    // The longest key takes a few lines, not the whole page; the keyboard reaches it.
    let tallest = browser
        .run("return Math.max(...[...document.querySelectorAll('td bdi')].map((e) => e.clientHeight))")
        .await;
    assert!(tallest.as_f64().unwrap() < 150.0, "{tallest}");
    browser
        .wait_for("[...document.querySelectorAll('#top bdi')].some((e) => e.tabIndex === 0)")
        .await;
    browser.picture("hostile-phone-dark").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn screen_reader_is_notified_of_changes_but_not_of_samples() {
    let server = server();
    let page = Page::start(40.0, server.port(), token()).await;
    let Some(browser) = shown(&page, DESKTOP, Theme::Light).await else {
        return;
    };
    browser
        .wait_for("document.getElementById('live').innerText === 'Live'")
        .await;
    browser
        .run(
            "window.notified = []; window.samples = 0;
             const see = (e, note) => new MutationObserver(note).observe(e, {childList: true, characterData: true, subtree: true});
             document.querySelectorAll('[role=status], [role=alert]').forEach((e) => see(e, () => notified.push(e.id)));
             see(document.getElementById('heap-used'), () => samples++);",
        )
        .await;
    browser.wait_for("samples > 10").await;
    assert_eq!(browser.run("return notified").await, serde_json::json!([]));
    page.set(97.0);
    browser.wait_for("notified.includes('status')").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_control_has_keyboard_access_and_visible_focus() {
    let server = server();
    let page = Page::start(40.0, server.port(), token()).await;
    let Some(browser) = shown(&page, DESKTOP, Theme::Light).await else {
        return;
    };
    browser.open(&page.url()).await;
    browser
        .wait_for("document.getElementById('live').innerText === 'Live'")
        .await;
    browser
        .wait_for("document.querySelectorAll('#chart-memory svg, #tags a').length === 9")
        .await;
    let mut stops: Vec<String> = Vec::new();
    while stops.len() < 60 && stops.last().is_none_or(|stop| stop != "soft") {
        let active = browser.client.active_element().await.unwrap();
        active.send_keys("\u{e004}").await.unwrap();
        let stop = browser
            .run(
                "const e = document.activeElement, box = e.getBoundingClientRect();
                 const seen = box.width > 0 && box.right > 0 && getComputedStyle(e).outlineStyle !== 'none';
                 return (e.id || e.name || e.className || e.innerText) + (seen ? '' : ' unseen');",
            )
            .await;
        stops.push(stop.as_str().unwrap().to_owned());
    }
    assert!(
        !stops.iter().any(|stop| stop.contains("unseen")),
        "{stops:?}"
    );
    // Tables that fit and parts that are closed are no tab stops.
    let begin = [
        "skip",
        "sign-out",
        "find",
        "Look up",
        "range",
        "chart-memory",
    ];
    assert_eq!(stops[..6], begin);
    assert!(stops.contains(&"tenant:3".to_owned()), "{stops:?}");
    assert_eq!(
        stops[stops.len() - 4..],
        ["tag", "Invalidate", "clear", "soft"]
    );
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_invalidates_a_tag_and_asks_before_clearing() {
    let server = server();
    let page = Page::start(40.0, server.port(), token()).await;
    let Some(browser) = shown(&page, DESKTOP, Theme::Light).await else {
        return;
    };
    let entries = || {
        let stats: std::collections::HashMap<String, String> = redis::cmd("CACHE.STATS")
            .query(&mut server.connection())
            .unwrap();
        stats["entries"].parse::<u64>().unwrap()
    };
    let before = entries();
    let tag = browser.client.find(Locator::Id("tag")).await.unwrap();
    tag.send_keys("tenant:3\u{e007}").await.unwrap();
    browser
        .wait_for("document.getElementById('control-result').innerText === '29 entries dropped.'")
        .await;
    assert_eq!(entries(), before - 29);

    let click = async |css: &str| {
        browser
            .client
            .find(Locator::Css(css))
            .await
            .unwrap()
            .click()
            .await
            .unwrap();
    };
    click("#clear").await;
    browser
        .wait_for("document.getElementById('confirm').open")
        .await;
    browser.picture("confirm").await;
    click("#confirm [value=no]").await;
    browser
        .wait_for("!document.getElementById('confirm').open")
        .await;
    assert!(entries() >= before - 29);
    click("#clear").await;
    click("#confirm [value=yes]").await;
    browser
        .wait_for(
            "/^17[0-9] entries dropped/.test(document.getElementById('control-result').innerText)",
        )
        .await;
    // The instance's own figures come back with its next sample.
    assert!(entries() <= 1);
    browser.end().await;
}
