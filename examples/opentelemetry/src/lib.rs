//! Sends the spans and metrics of the tagcache client, and of the application, to an OpenTelemetry collector by OTLP
//! over HTTP, in JSON. The client does not depend on OpenTelemetry: it reports to `tracing` and `metrics`, and this
//! crate exports both.
#![forbid(unsafe_code)]

use std::error::Error;

use metrics::KeyName;
use metrics_exporter_otel::OpenTelemetryRecorder;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Bounds of the client's histograms: OpenTelemetry's default ones are meant for milliseconds.
const SECONDS: [f64; 12] = [
    0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0,
];

/// The exporters. Dropping them without [`Self::stop`] loses the data that was not exported yet.
#[must_use]
pub struct Telemetry {
    spans: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Telemetry {
    /// Exports from now on: spans in batches, every 5 s at the latest, metrics every 60 s. `collector` is the address of
    /// its HTTP receiver, such as `http://127.0.0.1:4318`.
    ///
    /// # Errors
    /// When the address is invalid, or the process already has a subscriber of `tracing` or a recorder of `metrics`.
    pub fn start(service: &'static str, collector: &str) -> Result<Self, Box<dyn Error>> {
        let resource = Resource::builder().with_service_name(service).build();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpJson)
            .with_endpoint(format!("{collector}/v1/traces"))
            .build()?;
        let spans = SdkTracerProvider::builder()
            .with_resource(resource.clone())
            .with_batch_exporter(exporter)
            .build();
        let exporter = MetricExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpJson)
            .with_endpoint(format!("{collector}/v1/metrics"))
            .build()?;
        let metrics = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_periodic_exporter(exporter)
            .build();

        // Commands have spans of level DEBUG. Only the named targets are exported: the spans of the exporter's own HTTP
        // client would otherwise cause exports without end.
        let wanted = Targets::new()
            .with_target("tagcache", Level::DEBUG)
            .with_target(service, Level::INFO);
        let layer = tracing_opentelemetry::layer().with_tracer(spans.tracer(service));
        tracing_subscriber::registry()
            .with(layer.with_filter(wanted))
            .try_init()?;
        let recorder = OpenTelemetryRecorder::new(metrics.meter(service));
        for name in ["load", "command"] {
            let name = KeyName::from(format!("tagcache_client_{name}_seconds"));
            recorder.set_histogram_bounds(&name, SECONDS.to_vec());
        }
        metrics::set_global_recorder(recorder)?;
        Ok(Self { spans, metrics })
    }

    /// Exports the remaining data and ends. Blocks for up to 5 s for spans and for metrics.
    ///
    /// # Errors
    /// When the collector does not accept the data.
    pub fn stop(self) -> Result<(), Box<dyn Error>> {
        self.spans.shutdown()?;
        self.metrics.shutdown()?;
        Ok(())
    }
}
