import type { Relay } from './relay.js'

/** A relay's figures under their metrics' names. */
export function relayMetrics(relay: Relay): Record<string, number> {
	const counts = relay.counts()
	return {
		outbox_published_total: counts.published,
		outbox_failed_total: counts.failed,
		outbox_unroutable_total: counts.unroutable,
		outbox_events_published_total: counts.eventsPublished,
		outbox_events_failed_total: counts.eventsFailed,
		outbox_already_delivered_total: counts.alreadyDelivered,
		sweep_recovered_nodes_total: counts.recovered,
		sweep_reemitted_messages_total: counts.reemitted,
		sweep_repaired_runs_total: counts.repaired,
	}
}
