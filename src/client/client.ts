/** The client: each operation on runs as a function. */
import type {
	CancelledRun,
	LiveEvent,
	NodePage,
	NodeRun,
	ResumedRun,
	RetriedRun,
	Run,
	RunPage,
	RunState,
	RunStatus,
	RunSummary,
	SentEvent,
} from './answers.js'
import { blueprintId, type BlueprintRef, type ContextOf, type InputOf, type NodeIdOf } from './blueprint.js'
import { ConnectionError } from './errors.js'
import { type Paged, paged } from './paged.js'
import { pause } from './pause.js'
import { readServerSentEvents, type ServerSentEvent } from './server-sent-events.js'
import { Transport, type TransportOptions } from './transport.js'

export interface ClientOptions extends TransportOptions {}

export interface CallOptions {
	/** Ends the call, retries included; it then throws the signal's reason. What the server has done stays done. */
	readonly signal?: AbortSignal | undefined
}

export interface StartOptions<Input extends object = Record<string, unknown>> extends CallOptions {
	readonly input?: Input
	/** A `metadata.version` or a content hash. Default: the current version. */
	readonly version?: string
	readonly tags?: readonly string[]
	/** Starts with one key start one run. Default: a new one, which covers this call and its retries. */
	readonly idempotencyKey?: string
}

export interface WaitOptions<R extends Run = Run> extends CallOptions {
	/** Sees each answer before the last: what the run is, and what it waits for. */
	readonly onProgress?: (run: R) => void
}

export interface ListOptions extends CallOptions {
	readonly status?: RunStatus | readonly RunStatus[]
	readonly blueprint?: BlueprintRef
	readonly tag?: string
	/** Only children of this run. */
	readonly parent?: string
	/** Runs on a page. */
	readonly limit?: number
	/** `nextCursor` of the page before. */
	readonly cursor?: string
}

export interface NodesOptions extends CallOptions {
	/** Also their outputs. */
	readonly withOutput?: boolean
	/** Nodes on a page. */
	readonly limit?: number
	readonly cursor?: string
}

export interface ResumeOptions<NodeId extends string = string> extends CallOptions {
	/** Which wait ends; needed if several do. */
	readonly nodeId?: NodeId
	readonly action?: string
	readonly output?: unknown
}

export interface EventsOptions extends CallOptions {
	/** `id` of the last event that was seen. Default: from the run's beginning. */
	readonly after?: string
}

/** All operations, of one blueprint. */
export interface BlueprintClient<
	Context extends object = Record<string, unknown>,
	NodeId extends string = string,
> {
	start(options?: StartOptions<Partial<Context>>): Promise<RunState>
	/** Starts a run and waits for its end. */
	run(
		options?: StartOptions<Partial<Context>> & WaitOptions<Run<Context, NodeId>>,
	): Promise<Run<Context, NodeId>>
	get(runId: string, options?: CallOptions): Promise<Run<Context, NodeId>>
	wait(runId: string, options?: WaitOptions<Run<Context, NodeId>>): Promise<Run<Context, NodeId>>
	list(options?: Omit<ListOptions, 'blueprint'>): Paged<RunPage, RunSummary>
	resume(runId: string, options?: ResumeOptions<NodeId>): Promise<ResumedRun>
	retry(runId: string, options?: CallOptions & { readonly nodeId?: NodeId }): Promise<RetriedRun>
}

export interface Client {
	/** Started once, however often it has to be sent. */
	start<B extends BlueprintRef>(blueprint: B, options?: StartOptions<InputOf<B>>): Promise<RunState>
	get(runId: string, options?: CallOptions): Promise<Run>
	/** The run, when it has ended. Waits for as long as it takes. */
	wait(runId: string, options?: WaitOptions): Promise<Run>
	/** Newest first. Awaited: a page; iterated: all runs. */
	list(options?: ListOptions): Paged<RunPage, RunSummary>
	cancel(runId: string, options?: CallOptions & { readonly reason?: string }): Promise<CancelledRun>
	/** Ends a wait. Not sent again when no answer came: it might end the next wait of that node. */
	resume(runId: string, options?: ResumeOptions): Promise<ResumedRun>
	/** Another attempt of what has failed. Not sent again when no answer came. */
	retry(runId: string, options?: CallOptions & { readonly nodeId?: string }): Promise<RetriedRun>
	pause(runId: string, options?: CallOptions): Promise<RunState>
	unpause(runId: string, options?: CallOptions): Promise<RunState>
	/** Awaited: a page; iterated: all nodes. */
	nodes(runId: string, options?: NodesOptions): Paged<NodePage, NodeRun>
	/** What happens to the run while it happens, until it has ended: each event once, whatever breaks meanwhile. */
	events(runId: string, options?: EventsOptions): AsyncGenerator<LiveEvent, void, undefined>
	/** Ends every wait for this event. Not sent again when no answer came. */
	sendEvent(
		name: string,
		options?: CallOptions & { readonly key?: string; readonly payload?: unknown },
	): Promise<SentEvent>
	/**
	 * The operations with the types of one blueprint: input and context of a `createFlow` builder, node ids of a constant.
	 * Context and node ids may also be given: `client.for<OrderContext>('order')`.
	 */
	for<B extends BlueprintRef>(blueprint: B): BlueprintClient<ContextOf<B>, NodeIdOf<B>>
	for<Context extends object, NodeId extends string = string>(
		blueprint: BlueprintRef,
	): BlueprintClient<Context, NodeId>
}

/** How long the server may hold an answer back, waiting for the end of the run. */
const LONG_POLL_SECONDS = 20
/** A server that does not hold its answer back is not to be flooded, in ms. */
const POLL_PAUSE_MS = 100
/** Streams that are silent for longer are broken: something comes every 15 seconds. In ms. */
const SILENCE_MS = 45_000
const NO_CONTENT = 204

export function createClient(options: ClientOptions): Client {
	const transport = new Transport(options)
	const runPath = (runId: string, rest = ''): string => `/runs/${encodeURIComponent(runId)}${rest}`

	const post = async <T extends RunState>(
		path: string,
		repeatable: boolean,
		{ signal, ...body }: CallOptions & Readonly<Record<string, unknown>> = {},
	): Promise<T> =>
		transport.expectField<T>(
			await transport.json({
				method: 'POST',
				path,
				...(Object.values(body).every((value) => value === undefined) ? {} : { body }),
				repeatable,
				signal,
			}),
			'runId',
		)

	const read = async (runId: string, signal: AbortSignal | undefined, wait?: number): Promise<Run> =>
		transport.expectField<Run>(
			await transport.json({
				path: runPath(runId),
				...(wait === undefined ? {} : { query: { wait: `${wait}s` }, serverWaitMs: wait * 1000 }),
				repeatable: true,
				signal,
			}),
			'status',
		)

	const client: Client = {
		async start(blueprint, { signal, idempotencyKey = newKey(), ...request } = {}) {
			const started = await transport.json({
				method: 'POST',
				path: '/runs',
				headers: { 'Idempotency-Key': idempotencyKey },
				body: { blueprint: blueprintId(blueprint), ...request },
				repeatable: true,
				signal,
			})
			return transport.expectField<RunState>(started, 'runId')
		},

		get: (runId, { signal } = {}) => read(runId, signal),

		async wait(runId, { signal, onProgress } = {}) {
			for (;;) {
				const run = await read(runId, signal, LONG_POLL_SECONDS)
				if (run.status === 'completed' || run.status === 'failed' || run.status === 'cancelled')
					return run
				onProgress?.(run)
				await pause(POLL_PAUSE_MS, signal)
			}
		},

		list: ({ signal, blueprint, status, cursor, ...query } = {}) =>
			paged(
				async (next) =>
					transport.expectField<RunPage>(
						await transport.json({
							path: '/runs',
							query: {
								...query,
								status,
								blueprint: blueprint === undefined ? undefined : blueprintId(blueprint),
								cursor: next,
							},
							repeatable: true,
							signal,
						}),
						'runs',
					),
				({ runs }) => runs,
				cursor,
			),

		cancel: (runId, given) => post(runPath(runId, '/cancel'), true, { ...given }),
		pause: (runId, given) => post(runPath(runId, '/pause'), true, { ...given }),
		unpause: (runId, given) => post(runPath(runId, '/unpause'), true, { ...given }),
		resume: (runId, given) => post<ResumedRun>(runPath(runId, '/resume'), false, { ...given }),
		retry: (runId, given) => post<RetriedRun>(runPath(runId, '/retry'), false, { ...given }),

		nodes: (runId, { signal, withOutput, limit, cursor } = {}) =>
			paged(
				async (next) =>
					transport.expectField<NodePage>(
						await transport.json({
							path: runPath(runId, '/nodes'),
							query: {
								include: withOutput === true ? 'output' : undefined,
								limit,
								cursor: next,
							},
							repeatable: true,
							signal,
						}),
						'nodes',
					),
				({ nodes }) => nodes,
				cursor,
			),

		async sendEvent(name, { signal, ...body } = {}) {
			const sent = await transport.json({
				method: 'POST',
				path: `/events/${encodeURIComponent(name)}`,
				body,
				repeatable: false,
				signal,
			})
			return transport.expectField<SentEvent>(sent, 'woken')
		},

		events: (runId, { signal, after } = {}) =>
			liveEvents(transport, runPath(runId, '/stream'), after, signal),

		for<Context extends object, NodeId extends string>(
			blueprint: BlueprintRef,
		): BlueprintClient<Context, NodeId> {
			const id = blueprintId(blueprint)
			const typed = (run: Run): Run<Context, NodeId> => run as Run<Context, NodeId>
			const ended: BlueprintClient<Context, NodeId>['wait'] = async (runId, given) =>
				typed(await client.wait(runId, given as WaitOptions))
			return {
				start: (given) => client.start(id, given),
				async run({ onProgress, ...given } = {}) {
					const { runId } = await client.start(id, given)
					return ended(runId, {
						signal: given.signal,
						...(onProgress === undefined ? {} : { onProgress }),
					})
				},
				get: async (runId, given) => typed(await client.get(runId, given)),
				wait: ended,
				list: (given) => client.list({ ...given, blueprint: id }),
				resume: (runId, given) => client.resume(runId, given),
				retry: (runId, given) => client.retry(runId, given),
			}
		},
	}
	return client
}

/**
 * The events of a run, over as many connections as it takes.
 * @throws ConnectionError when nothing has come through for as long as requests are tried; ClientError; the signal's reason
 */
async function* liveEvents(
	transport: Transport,
	path: string,
	after: string | undefined,
	signal: AbortSignal | undefined,
): AsyncGenerator<LiveEvent, void, undefined> {
	let last = after
	let failures = 0
	let brokenSince: number | undefined
	for (;;) {
		const over = new AbortController()
		let timer: ReturnType<typeof setTimeout> | undefined
		const alive = (): void => {
			clearTimeout(timer)
			timer = setTimeout(() => over.abort(), SILENCE_MS)
		}
		const response = await transport.stream({
			path,
			headers: {
				Accept: 'text/event-stream',
				...(last === undefined ? {} : { 'Last-Event-ID': last }),
			},
			repeatable: true,
			signal: signal === undefined ? over.signal : AbortSignal.any([signal, over.signal]),
		})
		// The run has ended, and everything was told.
		if (response.status === NO_CONTENT || response.body === null) return
		const events = readServerSentEvents(response.body, alive)
		alive()
		try {
			for (;;) {
				const next = await nextOrBroken(events)
				if (next === 'broken') {
					signal?.throwIfAborted()
					failures += 1
					brokenSince ??= performance.now()
					break
				}
				// Its time is over: there may be more.
				if (next === undefined) break
				failures = 0
				brokenSince = undefined
				transport.reportTrouble()
				if (next.event === 'end') return
				last = next.id ?? last
				yield { id: last, ...(JSON.parse(next.data) as object) } as LiveEvent
			}
		} finally {
			clearTimeout(timer)
			await events.return()
			// Not every host ends a request whose answer nobody reads on.
			over.abort()
		}
		if (failures > 0) {
			if (performance.now() - (brokenSince ?? 0) > transport.retryForMs)
				throw new ConnectionError('The stream breaks again and again')
			transport.reportTrouble('the stream broke')
		}
		await pause(transport.pauseMs(Math.max(failures, 1)), signal)
	}
}

/** How hosts say that a connection broke differs; whatever reading throws means that. */
async function nextOrBroken(
	events: AsyncGenerator<ServerSentEvent, void>,
): Promise<ServerSentEvent | undefined | 'broken'> {
	try {
		return (await events.next()).value ?? undefined
	} catch {
		return 'broken'
	}
}

/** 128 random bits. Pages that were not loaded over TLS have no `crypto.randomUUID`. */
function newKey(): string {
	return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
		byte.toString(16).padStart(2, '0'),
	).join('')
}
