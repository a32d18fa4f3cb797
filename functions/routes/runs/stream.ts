/** `GET /runs/:id/stream`: what happens to a run while it happens, as server-sent events. */
import { z } from '@hono/zod-openapi'
import type { ValueCodec } from '../../../src/context/values.js'
import { InvalidInputError } from '../../../src/errors.js'
import type { Doorbell } from '../../../src/ports/doorbell.js'
import type { Redactor } from '../../../src/redaction.js'
import { type WatchBatch, type WatchedEvent, watchRun } from '../../../src/run/watch.js'
import type { AddEndpoint, EndpointDefinition } from '../../endpoint.js'
import { invalidInput } from '../../problem.js'
import { duration } from '../fields.js'
import { asJson } from './read.js'
import { RUN_ID, runParams } from './schemas.js'

/** How long one answer goes on at most; a client then comes back with the id of the last event it has seen. */
export const DEFAULT_STREAM_MS = 5 * 60_000
/** The same where an answer leaves in one piece: nothing is told later than so long after it has happened. */
const ONE_PIECE_MS = 5_000
/** Proxies cut connections that are silent for a minute or so. */
const HEARTBEAT_MS = 15_000
/** What browsers wait before they come back, in ms. */
const RECONNECT_MS = 500

const streamEndpoint = {
	method: 'get',
	path: '/runs/{id}/stream',
	operationId: 'streamRun',
	tag: 'Runs',
	scope: 'read',
	summary: 'Watch a run live',
	description:
		'Server-sent events: what `GET /runs/{id}/events` tells of the run and its nodes (edges excepted), while it happens, and `node:emit` for what a node emits while it runs. `data` is an event as JSON; events that have no `event:` of their own arrive as `message`. An `id` belongs to one event for ever: with `Last-Event-ID`, the stream goes on behind it, without a gap and without repeating anything. What nodes emit is kept for an hour.\n\n' +
		'The stream ends after the run’s end with an `event: end` whose data is `{ "status" }`. It may end earlier, after five minutes unless the server is configured otherwise, or after five seconds on hosts that send an answer in one piece: come back with `Last-Event-ID`, as browsers do by themselves. Lines that begin with a colon keep the connection alive; one comes every 15 seconds in which nothing happens.',
	params: runParams,
	query: z.strictObject({
		wait: duration('End the stream after this time at the latest.').optional(),
		after: z
			.string()
			.optional()
			.openapi({ description: 'As `Last-Event-ID`, for clients that cannot set it.', example: '12' }),
	}),
	headers: z.object({
		'Last-Event-ID': z
			.string()
			.optional()
			.openapi({ description: '`id` of the last event that was seen.', example: '12' }),
	}),
	answers: {
		200: {
			description: 'The events, for as long as it takes.',
			mediaType: 'text/event-stream',
			example: `id: 1\ndata: {"type":"workflow:start","payload":{"blueprintId":"content-moderation","executionId":"${RUN_ID}"},"at":"2026-03-01T12:00:00.000Z"}\n\n`,
		},
		204: {
			description: 'The run has ended, and nothing has happened since that event: do not come back.',
		},
	},
	problems: ['not-found'],
} as const satisfies EndpointDefinition

/**
 * @param decodes true if values may be wrapped by a serializer of the user's: they are shown as what they stand for
 * @param maxMs how long one answer goes on at most
 */
export function addStreamRoute(
	add: AddEndpoint,
	doorbell: Doorbell,
	codec: ValueCodec,
	decodes: boolean,
	redactor: Redactor,
	maxMs: number,
): void {
	const show = ({ dataJson, payload, ...event }: WatchedEvent): string => {
		const json = redactor.json(JSON.stringify({ ...event, id: undefined, payload }))
		if (dataJson === undefined) return json
		// Pasted in whole, as it was emitted: like a run's result it is what the node wants to be seen.
		const data = decodes ? (asJson(codec, dataJson) ?? dataJson) : dataJson
		return `${json.slice(0, -2)},"data":${data}}}`
	}

	add(streamEndpoint, async (call) => {
		const { params, query, headers, db, answersUntil, signal, stopping, inOnePiece } = call
		const limitMs = inOnePiece ? Math.min(maxMs, ONE_PIECE_MS) : maxMs
		const gone = new AbortController()
		const watching = watchRun(db, params.id, {
			after: headers['Last-Event-ID'] ?? query.after,
			timeoutMs: Math.min(query.wait ?? limitMs, limitMs),
			heartbeatMs: HEARTBEAT_MS,
			signal: AbortSignal.any([signal, gone.signal, ...(stopping === undefined ? [] : [stopping])]),
			onHint: (look) =>
				doorbell.listen((ring) => {
					if (ring.type === 'ended' && ring.runIds.includes(params.id)) look()
				}),
		})
		// The first look tells problems as every other operation does.
		const first = await watching.next().catch((error: unknown) => {
			if (!(error instanceof InvalidInputError)) throw error
			const [place, path] =
				headers['Last-Event-ID'] === undefined
					? (['query', '/after'] as const)
					: (['header', '/Last-Event-ID'] as const)
			throw invalidInput([{ in: place, path, message: 'is no event of this run' }], { cause: error })
		})
		if (first.done === true || (first.value.ended && first.value.events.length === 0)) {
			await watching.return()
			return new Response(null, { status: 204 })
		}
		return new Response(eventStream(first.value, watching, show, gone, signal, answersUntil), {
			headers: {
				'Content-Type': 'text/event-stream; charset=utf-8',
				'Cache-Control': 'no-store',
				'X-Content-Type-Options': 'nosniff',
				// nginx and its like would collect events before they hand them on.
				'X-Accel-Buffering': 'no',
			},
		})
	})
}

/** Reads on only while the client does: what nobody fetches is not looked for. */
function eventStream(
	first: WatchBatch,
	watching: AsyncGenerator<WatchBatch, void>,
	show: (event: WatchedEvent) => string,
	gone: AbortController,
	signal: AbortSignal,
	answersUntil: (written: Promise<unknown>) => void,
): ReadableStream<Uint8Array> {
	const encoder = new TextEncoder()
	const text = (batch: WatchBatch): Uint8Array => encoder.encode(batchText(batch, show))
	let over = (): void => {}
	answersUntil(
		new Promise<void>((resolve) => {
			over = resolve
		}),
	)
	const leave = async (): Promise<void> => {
		gone.abort()
		await watching.return()
		over()
	}
	// Workers do not cancel a body whose client has gone.
	signal.addEventListener('abort', () => void leave(), { once: true })
	return new ReadableStream<Uint8Array>({
		start(controller) {
			controller.enqueue(encoder.encode(`retry: ${RECONNECT_MS}\n\n`))
			controller.enqueue(text(first))
		},
		async pull(controller) {
			try {
				const next = await watching.next()
				if (next.done !== true) return controller.enqueue(text(next.value))
				controller.close()
				over()
			} catch (error) {
				// The client sees the connection break, and comes back.
				controller.error(error)
				over()
			}
		},
		cancel: leave,
	})
}

function batchText({ events, status, ended }: WatchBatch, show: (event: WatchedEvent) => string): string {
	const end = ended ? `event: end\ndata: ${JSON.stringify({ status })}\n\n` : ''
	return events.length === 0 && !ended
		? ':\n\n'
		: events.map((event) => `id: ${event.id}\ndata: ${show(event)}\n\n`).join('') + end
}
