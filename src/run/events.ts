/** Events: named, optionally with a correlation key, sent from outside to whoever waits for them. */
import { createValueCodec, type ValueCodec } from '../context/values.js'
import { type Executor, query } from '../db/query.js'
import { type Fault, InvalidInputError } from '../errors.js'
import { WEBHOOK_EVENT_PREFIX } from './webhooks.js'
import { resumeWith, type WokenNode, wokenNodes, type WokenRow } from './woken.js'

/** How long an event that nobody waits for is kept for a later wait, in ms: an hour. */
export const DEFAULT_EVENT_KEEP_MS = 60 * 60_000

export interface EventInput {
	readonly name: string
	/** Waits that name a correlation key take only events with the same one; waits without a key take every event. */
	readonly key?: string
	/** The output of the nodes that wait. */
	readonly payload?: unknown
}

export interface SendEventOptions {
	/** Default an hour; 0 keeps nothing. */
	readonly keepMs?: number
	/** What the workers write values with, if it is not JSON. */
	readonly codec?: ValueCodec
}

export interface SentEvent {
	/** Every wait that it has ended. */
	readonly woken: readonly WokenNode[]
	/** Nobody waited, and it is kept: the next wait that matches takes it. */
	readonly kept: boolean
}

/**
 * Ends every wait for this event; workers continue from there. An event that nobody waits for is kept for a while, for
 * one later wait. Repeating a call sends a second event.
 * @throws InvalidInputError
 */
export async function sendEvent(
	db: Executor,
	event: EventInput,
	options: SendEventOptions = {},
): Promise<SentEvent> {
	const faults = eventFaults(event)
	if (faults.length > 0) throw new InvalidInputError('The event cannot be sent', faults)
	const keepMs = Math.max(Math.round(options.keepMs ?? DEFAULT_EVENT_KEEP_MS), 0)
	const [row] = await query<WokenRow & { kept: boolean }>(
		db,
		`select to_json(woken_runs)::text as runs, to_json(woken_nodes)::text as nodes, kept
		from flowcraft_send_event($1::text, $2::text, $3::text,
			case when $4::text::bigint > 0 then clock_timestamp() + $4::text::bigint * interval '1 millisecond' end)`,
		[
			event.name,
			event.key ?? null,
			resumeWith(event.payload, 'payload', options.codec ?? createValueCodec()),
			String(keepMs),
		],
	)
	if (row === undefined) throw new Error('flowcraft_send_event answered nothing')
	return { woken: wokenNodes(row), kept: row.kept }
}

/** What is wrong with an event's name or key. */
export function eventFaults({ name, key }: Pick<EventInput, 'name' | 'key'>): Fault[] {
	const faults: Fault[] = []
	const check = (path: string, text: string): void => {
		if (text === '') faults.push({ path, message: 'must not be empty' })
		if (text.length > 256) faults.push({ path, message: 'must not be longer than 256 characters' })
		if (text.includes('\u0000') || !text.isWellFormed())
			faults.push({ path, message: 'must not contain NUL or half of a surrogate pair' })
	}
	check('/name', name)
	if (name.startsWith(WEBHOOK_EVENT_PREFIX)) {
		faults.push({
			path: '/name',
			message: `must not begin with '${WEBHOOK_EVENT_PREFIX}': only a request to the webhook sends its event`,
		})
	}
	if (key !== undefined) check('/key', key)
	return faults
}
