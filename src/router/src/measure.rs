//! What is measured now and then.

use futures_util::StreamExt;
use tollgate_bus::topology;
use tollgate_protocol::Priority;
use tollgate_telemetry as telemetry;

use crate::Context;

impl Context {
    /// How many requests wait, by priority.
    pub(crate) async fn measure_lanes(&self) {
        let name = self.bus.subjects().stream(topology::REQUESTS);
        let Ok(stream) = self.bus.jetstream().get_stream_no_info(&name).await else { return };
        let mut depth = [0; 3];
        let mut consumers = stream.consumers();
        while let Some(Ok(info)) = consumers.next().await {
            let priority =
                Priority::ALL.iter().find(|priority| info.name.starts_with(&format!("lane-{priority}-")));
            if let Some(priority) = priority {
                depth[priority.index()] += info.num_pending + info.num_ack_pending as u64;
            }
        }
        for priority in Priority::ALL {
            telemetry::set_lane_depth(priority.as_str(), depth[priority.index()]);
        }
    }
}
