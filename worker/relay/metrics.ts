import type { Relay } from './relay.js'

/** A relay's figures under their metrics' names. */
export function relayMetrics(relay: Relay): Record<string, number> {
	const { published, failed, unroutable, alreadyDelivered, recovered, reemitted, repaired } = relay.counts()
	return {
		outbox_published_total: published,
		outbox_failed_total: failed,
		outbox_unroutable_total: unroutable,
		outbox_already_delivered_total: alreadyDelivered,
		sweep_recovered_nodes_total: recovered,
		sweep_reemitted_messages_total: reemitted,
		sweep_repaired_runs_total: repaired,
	}
}
