/**
 * Starting runs: status, context, start nodes and outbox rows, in one statement and one round trip for one run or many.
 * Inside a caller's transaction, a run exists exactly if the caller's own rows do.
 */
import { canonicalJson, contentHash } from '../blueprint/hash.js'
import { checkKey, createValueCodec, UnstorableValueError, type ValueCodec } from '../context/values.js'
import { classifyDatabaseError, isAbortedTransaction, isLockTimeout } from '../db/errors.js'
import { type Executor, query, textArray } from '../db/query.js'
import { ConflictError, type Fault, InvalidInputError, NotFoundError } from '../errors.js'
import { newRunId } from './ids.js'

/** How long an idempotency key is remembered: a day. */
const IDEMPOTENCY_TTL_MS = 24 * 60 * 60 * 1000
/** Starts per statement at most: past this, larger batches gain nothing. */
const MAX_BATCH = 50
/** Of all their values together: a statement has to fit into memory, several times over. */
const MAX_BATCH_CHARACTERS = 4_000_000

export interface StartRunInput {
	/** Id of a registered blueprint. */
	readonly blueprint: string
	/** The context that the run starts with, one entry per key. Default: empty. */
	readonly input?: Readonly<Record<string, unknown>>
	/** A `metadata.version` or a hash. Default: the current version. */
	readonly version?: string
	/** Default: a new UUIDv7. */
	readonly runId?: string
	/** Repeating a start with the same key and the same body returns the first run. Remembered for a day. */
	readonly idempotencyKey?: string
	/** Whose key it is; keys of different scopes never meet. Default: ''. */
	readonly idempotencyScope?: string
	/** Labels to find the run by. At most 20, each at most 100 characters. */
	readonly tags?: readonly string[]
	/** W3C trace context, handed on to every node of the run. */
	readonly traceparent?: string
}

export interface StartedRun {
	readonly runId: string
	/** `running` for a new run; whatever it is by now for a repeated start. */
	readonly status: string
	/** True: an earlier start with this idempotency key began the run. */
	readonly repeated: boolean
}

/** A start that is in order, as it is stored. */
interface PreparedStart {
	readonly input: StartRunInput
	readonly runId: string
	/** Null: no idempotency key was given. */
	readonly requestHash: string | null
	readonly entries: readonly (readonly [key: string, text: string])[]
}

/**
 * Starts a run.
 *
 * @param db our database, or a Drizzle or postgres.js transaction of the caller's
 * @param codec how values are written; plain JSON by default
 * @throws InvalidInputError, NotFoundError (no such blueprint or version), ConflictError (the key was used with another
 * body, or the run id is taken). Nothing was written in any of these cases, and the caller's transaction goes on.
 */
export async function startRun(
	db: Executor,
	input: StartRunInput,
	codec: ValueCodec = createValueCodec(),
): Promise<StartedRun> {
	const [answer] = await insertStarts(db, [await prepareStart(input, codec)])
	if (answer instanceof Error) throw answer
	return answer as StartedRun
}

/** @throws InvalidInputError with every fault */
async function prepareStart(input: StartRunInput, codec: ValueCodec): Promise<PreparedStart> {
	const faults = faultsOf(input)
	const keys = Object.keys(input.input ?? {})
	const values = keys.map((key) => {
		try {
			checkKey(key)
			return codec.encode(key, input.input?.[key])
		} catch (error) {
			if (!(error instanceof UnstorableValueError)) throw error
			faults.push({ path: `/input/${pointer(key)}`, message: error.message })
			return null
		}
	})
	if (faults.length > 0) throw new InvalidInputError('The run cannot be started', faults)

	const requestHash =
		input.idempotencyKey === undefined
			? null
			: await contentHash(
					canonicalJson({
						blueprint: input.blueprint,
						version: input.version,
						runId: input.runId,
						tags: input.tags,
						input: Object.fromEntries(keys.map((key, position) => [key, values[position]])),
					}),
				)
	return {
		input,
		runId: input.runId ?? newRunId(),
		requestHash,
		entries: keys.flatMap((key, position) => {
			const text = values[position]
			return typeof text === 'string' ? [[key, text] as const] : []
		}),
	}
}

/**
 * Starts many runs, up to 50 in one statement and one commit, which is many times cheaper than each by itself. Runs start,
 * or do not, independently of each other: what became of each, in order, as of `Promise.allSettled`. Once Postgres cannot be
 * reached the others are not tried.
 *
 * @param db our database; in a transaction of the caller's a value that Postgres refuses ends that transaction
 * @param codec how values are written; plain JSON by default
 * @param patienceMs nobody waits longer for a transaction that holds a key or an id of one of them: all that share a statement
 * with that one are rejected then, `isLockTimeout` tells, and none of them has started. Default: as long as it takes
 */
export async function startRuns(
	db: Executor,
	inputs: readonly StartRunInput[],
	codec: ValueCodec = createValueCodec(),
	patienceMs?: number,
): Promise<PromiseSettledResult<StartedRun>[]> {
	const results: PromiseSettledResult<StartedRun>[] = []
	const prepared = await Promise.allSettled(inputs.map((input) => prepareStart(input, codec)))
	const starts = prepared.flatMap((result, position) => {
		if (result.status === 'fulfilled') return [{ position, start: result.value }]
		results[position] = result
		return []
	})
	let unavailable: PromiseRejectedResult | undefined
	for (const batch of batchesOf(starts)) {
		const settled =
			unavailable === undefined
				? await insertAll(
						db,
						batch.map(({ start }) => start),
						patienceMs,
					)
				: []
		batch.forEach(({ position }, place) => {
			const result = settled[place] ?? unavailable
			if (result !== undefined) results[position] = result
			if (result?.status === 'rejected' && classifyDatabaseError(result.reason) === 'unavailable')
				unavailable = result
		})
	}
	return results
}

interface Numbered {
	readonly position: number
	readonly start: PreparedStart
}

/** In order, and nothing twice in one: of two starts with one key, the second finds what became of the first. */
function batchesOf(starts: readonly Numbered[]): Numbered[][] {
	const batches: Numbered[][] = []
	let names = new Set<string>()
	let characters = 0
	for (const each of starts) {
		const { runId, input, entries } = each.start
		const size = entries.reduce((sum, [key, text]) => sum + key.length + text.length, 0)
		const own = [JSON.stringify([runId])]
		if (input.idempotencyKey !== undefined)
			own.push(JSON.stringify([input.idempotencyScope ?? '', input.idempotencyKey]))
		const batch = batches.at(-1)
		if (
			batch === undefined ||
			batch.length === MAX_BATCH ||
			characters + size > MAX_BATCH_CHARACTERS ||
			own.some((name) => names.has(name))
		) {
			batches.push([each])
			names = new Set(own)
			characters = size
		} else {
			batch.push(each)
			characters += size
			for (const name of own) names.add(name)
		}
	}
	return batches
}

/** Data that Postgres does not take, or a rule of the database's owner, fails that start alone. */
async function insertAll(
	db: Executor,
	starts: readonly PreparedStart[],
	patienceMs: number | undefined,
): Promise<PromiseSettledResult<StartedRun>[]> {
	try {
		return (await insertStarts(db, starts, patienceMs)).map((answer) =>
			answer instanceof Error
				? { status: 'rejected', reason: answer }
				: { status: 'fulfilled', value: answer },
		)
	} catch (error) {
		const isOnesFault =
			starts.length > 1 && classifyDatabaseError(error) !== 'unavailable' && !isLockTimeout(error)
		if (!isOnesFault) return starts.map(() => ({ status: 'rejected', reason: error }))
		const results: PromiseSettledResult<StartedRun>[] = []
		for (const start of starts) {
			const [result] = await insertAll(db, [start], patienceMs)
			// In a transaction of the caller's nothing goes on after the first error, which is the one that matters.
			results.push(
				result === undefined || (result.status === 'rejected' && isAbortedTransaction(result.reason))
					? { status: 'rejected', reason: error }
					: result,
			)
		}
		return results
	}
}

/** What became of each start, in order. No run id and no idempotency key may be among them twice. */
async function insertStarts(
	db: Executor,
	starts: readonly PreparedStart[],
	patienceMs?: number,
): Promise<(StartedRun | ConflictError | NotFoundError)[]> {
	const entries = starts.flatMap(({ entries }, position) =>
		entries.map(([key, text]) => ({ of: position + 1, key, text })),
	)
	const each = (pick: (start: PreparedStart) => string | null | undefined): string =>
		textArray(starts.map(pick))
	const rows = await query<{ ix: number; outcome: string; run_id: string; status: string }>(
		db,
		`select ix, outcome, run_id, status from flowcraft_start_runs(
			$1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::text[],
			$6::text::text[], $7::text::text[], $8::text::text[], $9::bigint,
			$10::text::int[], $11::text::text[], $12::text::text[], $13::bigint)`,
		[
			each(({ runId }) => runId),
			each(({ input }) => input.blueprint),
			each(({ input }) => input.version),
			each(({ input }) => textArray(input.tags ?? [])),
			each(({ input }) => input.traceparent),
			each(({ input }) => input.idempotencyScope ?? ''),
			each(({ input }) => input.idempotencyKey),
			each(({ requestHash }) => requestHash),
			IDEMPOTENCY_TTL_MS,
			textArray(entries.map(({ of }) => of)),
			textArray(entries.map(({ key }) => key)),
			textArray(entries.map(({ text }) => text)),
			patienceMs ?? null,
		],
	)
	const answers: (StartedRun | ConflictError | NotFoundError)[] = []
	for (const { ix, outcome, run_id: runId, status } of rows) {
		const start = starts[ix - 1]
		if (start !== undefined) answers[ix - 1] = answerOf(start, outcome, runId, status)
	}
	return answers
}

function answerOf(
	{ input, runId: wantedId }: PreparedStart,
	outcome: string,
	runId: string,
	status: string,
): StartedRun | ConflictError | NotFoundError {
	switch (outcome) {
		case 'started':
		case 'repeated':
			return { runId, status, repeated: outcome === 'repeated' }
		case 'conflict':
			return new ConflictError(
				`The idempotency key '${input.idempotencyKey}' was used for run '${runId}' with another request.`,
			)
		case 'exists':
			return new ConflictError(`There is a run '${wantedId}' already.`)
		case 'unknown_version':
			return new NotFoundError(
				`There is no version '${input.version}' of blueprint '${input.blueprint}'.`,
			)
		case 'unknown_blueprint':
			return new NotFoundError(
				`There is no blueprint '${input.blueprint}'. Workers register theirs when they start; PUT /blueprints/${input.blueprint} registers one by hand.`,
			)
		default:
			throw new Error(`flowcraft_start_runs answered '${outcome}'`)
	}
}

function faultsOf(input: StartRunInput): Fault[] {
	const faults: Fault[] = []
	const check = (path: string, text: string | undefined, maxLength: number): void => {
		if (text === undefined) return
		if (text === '') faults.push({ path, message: 'must not be empty' })
		if (text.length > maxLength)
			faults.push({ path, message: `must not be longer than ${maxLength} characters` })
		if (text.includes('\u0000')) faults.push({ path, message: 'must not contain NUL' })
		else if (!text.isWellFormed())
			faults.push({ path, message: 'must not contain half of a surrogate pair' })
	}
	check('/blueprint', input.blueprint, 256)
	check('/version', input.version, 256)
	check('/runId', input.runId, 256)
	check('/idempotencyKey', input.idempotencyKey, 256)
	check('/traceparent', input.traceparent, 256)
	if ((input.tags?.length ?? 0) > 20)
		faults.push({ path: '/tags', message: 'must not have more than 20 entries' })
	input.tags?.forEach((tag, position) => check(`/tags/${position}`, tag, 100))
	return faults
}

const pointer = (key: string): string =>
	key.replaceAll('~', '~0').replaceAll('/', '~1').replaceAll('\u0000', '\\u0000')
