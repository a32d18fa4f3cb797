/**
 * Effects outside the engine's own tables: every `work` node publishes one business event when `LAB_EXCHANGE` is set
 * (`workflows.ts`). The events wait in a queue of the laboratory's until everything has ended; then each finished node
 * must have left exactly one, repeats dropped by `messageId`, and no other node any.
 */
import { onBroker } from './faults.js'
import type { Lab } from './lab.js'

const QUEUED_UNTIL_READ = 500
const READ_AT_ONCE = 100

/** Declares the exchange that `LAB_EXCHANGE` names, and the queue behind it. */
export async function openEffects(lab: Lab, exchange: string): Promise<void> {
	await lab.database.sql.unsafe(
		`create table lab_events (message_id text not null, run_id text not null, node_id text not null,
			generation text not null, recovers text not null, unique (message_id, run_id, node_id, generation, recovers))`,
	)
	await onBroker(lab, async (channel) => {
		await channel.assertExchange(exchange, 'fanout', { durable: true })
		await channel.assertQueue(exchange, { durable: true, arguments: { 'x-queue-type': 'quorum' } })
		await channel.bindQueue(exchange, exchange, '')
	})
}

export interface EffectsReport {
	readonly violations: readonly string[]
	/** Different events, and messages that said what another one had said. */
	readonly events: number
	readonly repeats: number
}

/** Once everything is published. Reads the queue empty. */
export async function checkEffects(lab: Lab, exchange: string): Promise<EffectsReport> {
	const messages = await readAll(lab, exchange)
	for (let from = 0; from < messages.length; from += QUEUED_UNTIL_READ) {
		await lab.rows(
			`insert into lab_events select e.id, e.key->>0, e.key->>1, e.key->>2, e.key->>3
			from jsonb_to_recordset($1::text::jsonb) as e(id text, key jsonb) on conflict do nothing`,
			JSON.stringify(messages.slice(from, from + QUEUED_UNTIL_READ)),
		)
	}
	const [totals] = await lab.rows<{ events: number }>('select count(*)::int as events from lab_events')
	const found = await lab.rows<{ violation: string }>(
		`with finished as (
			select n.run_id, n.node_id, n.generation, n.recovers from flowcraft_nodes n
			where n.state = 'completed' and exists (
				select from lab_executions e where e.run_id = n.run_id and e.node_id = n.node_id
					and e.generation = n.generation and e.recovers = n.recovers
			)
		), counted as (
			select run_id, node_id, generation, recovers, count(*)::int as events from lab_events
			group by run_id, node_id, generation, recovers
		)
		select case when f.run_id is null
				then format('effect of node %s of run %s, which has not completed', c.node_id, c.run_id)
				else format('%s effects of node %s of run %s, not one', coalesce(c.events, 0), f.node_id, f.run_id) end as violation
		from finished f full join counted c using (run_id, node_id, generation, recovers)
		where f.run_id is null or c.events is distinct from 1
		limit 50`,
	)
	const events = totals?.events ?? 0
	return { violations: found.map(({ violation }) => violation), events, repeats: messages.length - events }
}

interface ReadMessage {
	readonly id: string
	/** Run, node, generation, recovers: the node's idempotency key. */
	readonly key: unknown
}

function readAll(lab: Lab, queue: string): Promise<ReadMessage[]> {
	return onBroker(lab, async (channel) => {
		const messages: ReadMessage[] = []
		for (;;) {
			// Many at a time: a soak leaves tens of thousands, and each is a way there and back.
			const got = await Promise.all(
				Array.from({ length: READ_AT_ONCE }, () => channel.get(queue, { noAck: true })),
			)
			for (const message of got) {
				if (message === false) continue
				messages.push({
					id: String(message.properties.messageId),
					key: (JSON.parse(message.content.toString()) as { key: unknown }).key,
				})
			}
			if (got.includes(false)) return messages
		}
	})
}
