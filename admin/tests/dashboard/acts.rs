//! Actions of a person on the page: look up a key or a tag, read values off charts, compare instances.

use fantoccini::Locator;
use serde_json::json;
use tagcache_tests::{DEADLINE, wait_until};

use crate::browser::{Browser, Theme};
use crate::page::Page;
use crate::states::{DESKTOP, PHONE, read, server, shown, token};

async fn click(browser: &Browser, css: &str) {
    let found = browser.client.find(Locator::Css(css)).await.unwrap();
    found.click().await.unwrap();
}

async fn press(browser: &Browser, key: &str) {
    let active = browser.client.active_element().await.unwrap();
    active.send_keys(key).await.unwrap();
}

async fn look_up(browser: &Browser, name: &str) {
    browser
        .run("document.getElementById('find').value = ''; document.getElementById('find').focus()")
        .await;
    press(browser, &format!("{name}\u{e007}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_link_opens_its_keys_and_key_link_its_entry() {
    let server = server();
    read(&server, 250);
    let page = Page::start(61.0, server.port(), token()).await;
    let Some(browser) = shown(&page, DESKTOP, Theme::Light).await else {
        return;
    };
    browser
        .wait_for("document.querySelector('#tags a[href=\"#tag=tenant%3A3\"]')")
        .await;
    click(&browser, "#tags a[href='#tag=tenant%3A3']").await;
    browser
        .wait_for("document.getElementById('listed').innerText === '29 keys listed'")
        .await;
    let facts = browser.text("tag-facts").await;
    for fact in ["Entries\n29", "Invalidations\n0", "Last invalidated\nnever"] {
        assert!(facts.contains(fact), "{facts}");
    }
    // The link moved the focus to the title.
    browser
        .wait_for("document.activeElement.id === 'tag-title'")
        .await;
    assert_eq!(browser.text("tag-name").await, "tenant:3");
    browser.picture("tag").await;

    click(&browser, "#tag-keys tr:nth-child(1) a").await;
    browser
        .wait_for("!document.getElementById('entry').hidden")
        .await;
    assert_eq!(
        browser
            .run("return document.getElementById('tag-found').hidden")
            .await,
        true
    );
    let facts = browser.text("entry-facts").await;
    for fact in [
        "State\nfresh",
        "Hits\n1",
        "Expires in\nnever",
        "Grace\nnone",
    ] {
        assert!(facts.contains(fact), "{facts}");
    }
    browser.picture("entry").await;

    // A tag of the entry, with more keys than fit a page; the browser's back button leads to the entry.
    click(&browser, "#entry-facts a[href='#tag=kind%3Apage']").await;
    browser
        .wait_for("document.getElementById('tag-name').innerText === 'kind:page'")
        .await;
    browser
        .wait_for("!document.getElementById('more').hidden")
        .await;
    browser.picture("tag-page").await;
    for _ in 0..20 {
        if browser
            .run("return document.getElementById('more').hidden")
            .await
            == json!(true)
        {
            break;
        }
        let before = browser.text("listed").await;
        click(&browser, "#more").await;
        let now = "document.getElementById('listed').innerText";
        browser.wait_for(&format!("{now} !== '{before}'")).await;
    }
    assert_eq!(browser.text("listed").await, "200 keys listed");
    browser.client.back().await.unwrap();
    browser
        .wait_for("!document.getElementById('entry').hidden")
        .await;

    // The page shows the effect of its own invalidation.
    click(&browser, "#entry-facts a[href^='#tag=tenant']").await;
    browser
        .wait_for("document.getElementById('tag-name').innerText === 'tenant:3'")
        .await;
    click(&browser, "#tag-drop").await;
    browser
        .wait_for("document.activeElement.id === 'tag'")
        .await;
    press(&browser, "\u{e007}").await;
    browser
        .wait_for("document.getElementById('control-result').innerText === '29 entries dropped.'")
        .await;
    look_up(&browser, "tenant:3").await;
    browser
        .wait_for("document.getElementById('tag-facts').innerText.includes('Invalidations\\n1')")
        .await;
    let facts = browser.text("tag-facts").await;
    assert!(
        facts.contains("Entries\n0") && !facts.contains("never"),
        "{facts}"
    );
    browser.picture("tag-invalidated").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lookup_finds_a_name_as_key_and_as_tag() {
    let mut server = server();
    let set = |key: &str, tag: &str| {
        redis::cmd("CACHE.SET")
            .arg(key)
            .arg("v")
            .arg(&["EX", "600", "GRACE", "60000", "TAGS", "1", tag])
            .exec(&mut server.connection())
            .unwrap();
    };
    let hostile = "<img src=x onerror='window.broken = 1'> & #key=x";
    set("both", "both");
    set(hostile, hostile);
    let page = Page::start(61.0, server.port(), token()).await;
    let Some(browser) = shown(&page, PHONE, Theme::Dark).await else {
        return;
    };
    for name in ["both", hostile] {
        look_up(&browser, name).await;
        for id in ["entry-name", "tag-name"] {
            let named = json!(name);
            let shown = format!("document.getElementById('{id}').innerText === {named}");
            browser.wait_for(&shown).await;
        }
        assert!(browser.text("entry-facts").await.contains("Grace\n60 s"));
    }
    // The focus stays in the input; the URL names the open entry.
    assert_eq!(
        browser.run("return document.activeElement.id").await,
        "find"
    );
    browser.picture("found-phone-dark").await;
    let address = browser.client.current_url().await.unwrap();
    browser.open("about:blank").await;
    browser.open(address.as_str()).await;
    browser
        .wait_for("document.getElementById('find-result').innerText.startsWith('As of')")
        .await;
    assert_eq!(browser.text("entry-name").await, hostile);
    assert_eq!(
        browser.run("return window.broken ?? null").await,
        json!(null)
    );

    look_up(&browser, "nothing").await;
    browser
        .wait_for("document.getElementById('find-result').innerText === 'There is no entry or tag of this name.'")
        .await;
    assert_eq!(
        browser
            .run("return document.getElementById('found').hidden")
            .await,
        true
    );
    server.stop();
    look_up(&browser, "both").await;
    browser.wait_for("document.getElementById('find-result').innerText.startsWith('Failed: The cache server')").await;
    browser.picture("look-up-failed-phone-dark").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_module_is_reported_on_the_page() {
    let server = tagcache_tests::Server::builder().without_module().start();
    let page = Page::start(61.0, server.port(), token()).await;
    let Some(browser) = shown(&page, DESKTOP, Theme::Light).await else {
        return;
    };
    browser
        .wait_for("document.getElementById('redis-error').innerText.includes('has not loaded the module')")
        .await;
    look_up(&browser, "a").await;
    browser
        .wait_for("document.getElementById('find-result').innerText.includes('has not loaded the module')")
        .await;
    browser.picture("without-module").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn charts_show_the_value_at_the_pointer_or_keyboard_cursor() {
    let server = server();
    let page = Page::start(61.0, server.port(), token()).await;
    read(&server, 250);
    let Some(browser) = shown(&page, DESKTOP, Theme::Light).await else {
        return;
    };
    wait_until("samples", DEADLINE, || page.samples() > 40);
    browser.open(&page.url()).await;
    browser
        .wait_for("document.querySelectorAll('.chart svg').length >= 3")
        .await;
    let at = "document.querySelector('#chart-memory + .at').innerText";
    assert_eq!(browser.run(&format!("return {at}")).await, "");
    // The cursor moves to the sample that is nearest to the pointer, which is some way off if a busy machine took no
    // sample there.
    let off = browser
        .run(
            "const place = document.getElementById('chart-memory'), box = place.getBoundingClientRect();
             place.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width / 2, clientY: box.top + 50}));
             const svg = place.querySelector('svg'), middle = svg.viewBox.baseVal.width / 2;
             const { series, plot, from } = JSON.parse(svg.querySelector('metadata').textContent);
             const x = (ago) => plot.left + (1 - ago / from) * (plot.right - plot.left);
             const samples = series.flatMap(({ points }) => points.map(([ago]) => Math.abs(x(ago) - middle)));
             return Math.abs(place.querySelector('.cursor').x1.baseVal.value - middle) - Math.min(...samples);",
        )
        .await;
    let off = off.as_f64().unwrap();
    assert!(off.abs() < 1.0, "{off}");
    let value = browser.run(&format!("return {at}")).await;
    let value = value.as_str().unwrap();
    assert!(
        value.contains("heap used 12") && value.contains("resident 162.0 MB"),
        "{value}"
    );
    browser.picture("chart-hover").await;
    browser.run("document.getElementById('chart-memory').dispatchEvent(new PointerEvent('pointerleave'))").await;
    assert_eq!(browser.run(&format!("return {at}")).await, "");

    // By keyboard, and with the text for a screen reader.
    browser
        .run("document.getElementById('chart-memory').focus()")
        .await;
    press(&browser, "\u{e011}").await;
    let aria = "const e = document.getElementById('chart-memory'); return [e.role, e.ariaValueNow, e.ariaValueText, e.ariaLabel.split(' over')[0]]";
    let first = browser.run(aria).await;
    assert_eq!(
        (&first[0], &first[1], &first[3]),
        (&json!("slider"), &json!("0"), &json!("Memory"))
    );
    press(&browser, "\u{e014}").await;
    let second = browser.run(aria).await;
    assert_eq!(second[1], "1");
    assert!(
        second[2].as_str().unwrap().contains("resident 162.0 MB"),
        "{second}"
    );

    // The table of the chart's values.
    click(&browser, "#chart-memory ~ details summary").await;
    browser
        .wait_for("document.querySelectorAll('#chart-memory-values tbody tr').length >= 20")
        .await;
    let table = browser.text("chart-memory-values").await;
    assert!(table.starts_with("Time\theap used\tresident"), "{table}");
    assert!(table.contains("162.0 MB"), "{table}");
    browser.picture("chart-table").await;

    // Another time range is requested, and kept for the next load.
    click(&browser, "#range [value='6h']").await;
    let asked = "performance.getEntriesByType('resource').filter((e) => e.name.includes('range=6h')).length >= 4";
    browser.wait_for(asked).await;
    browser.open(&page.url()).await;
    browser
        .wait_for("document.querySelector('#range [value=\"6h\"]').checked")
        .await;
    browser.wait_for(asked).await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_shown_side_by_side_with_their_last_hour() {
    let server = server();
    for (name, status, heap) in [("web-2", "warning", 88.0), ("web-3", "critical", 97.5)] {
        let recent: Vec<_> = (0..60)
            .map(|i| (i != 30).then(|| heap - f64::from(60 - i) * 0.7))
            .collect();
        let instance = json!({
            "instance": name, "status": status, "heapPercent": heap, "rss": 187_000_000, "localEntries": 1200,
            "hitRate": 93.4, "uptimeSeconds": 7400, "leakSuspected": heap > 90.0, "recent": recent,
        });
        redis::cmd("CACHE.SET")
            .arg(format!("tagcache:instance:{name}"))
            .arg(instance.to_string())
            .arg(&["TAGS", "1", "tagcache:instances"])
            .exec(&mut server.connection())
            .unwrap();
    }
    let page = Page::start(61.0, server.port(), token()).await;
    for (width, theme, name, rows) in [
        (DESKTOP, Theme::Light, "instances", 1),
        (PHONE, Theme::Dark, "instances-phone-dark", 3),
    ] {
        let Some(browser) = shown(&page, width, theme).await else {
            return;
        };
        browser
            .wait_for("document.querySelectorAll('#instances .cards > section').length === 3")
            .await;
        let tops = browser
            .run("return new Set([...document.querySelectorAll('#instances .cards > section')].map((e) => e.getBoundingClientRect().top)).size")
            .await;
        assert_eq!(tops, rows, "{name}");
        let line = browser.run("const e = document.querySelector('#instances [aria-label=\"web-3\"] svg'); return [e.ariaLabel, e.querySelector('polyline').points.length]").await;
        assert_eq!(
            line,
            json!(["Heap in the last 60 min: from 55.5% to 96.8%", 59])
        );
        browser.picture(name).await;
        browser.end().await;
    }
}
