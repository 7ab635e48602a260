//! The one recorder of a process: made, described, installed, kept small.

use std::sync::{Mutex, PoisonError};

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::names::{ALL, Kind};

/// The installed recorder. Whoever comes second gets the same.
static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// A recorder that knows the buckets of all histograms.
pub(crate) fn builder() -> Result<PrometheusBuilder, BuildError> {
    ALL.iter().try_fold(PrometheusBuilder::new(), |builder, metric| match metric.kind {
        Kind::Histogram(buckets) => {
            builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), &buckets.0)
        }
        Kind::Counter | Kind::Gauge => Ok(builder),
    })
}

/// Tells the current recorder what the metrics mean.
pub(crate) fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram(_) => describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}

/// Installs the recorder of this process, once; later calls give the same one.
///
/// # Errors
/// When somebody else has installed a recorder.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let handle = builder()?.install_recorder()?;
    describe();
    *installed = Some(handle.clone());
    Ok(handle)
}
