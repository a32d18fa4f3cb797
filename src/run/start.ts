/**
 * Starting a run: its status, context, start nodes and outbox rows, in one statement and one round trip. Inside a
 * caller's transaction, the run exists exactly if the caller's own rows do.
 */
import { canonicalJson, contentHash } from '../blueprint/hash.js'
import { checkKey, createValueCodec, UnstorableValueError, type ValueCodec } from '../context/values.js'
import { type Executor, query, textArray } from '../db/query.js'
import { ConflictError, type Fault, InvalidInputError, NotFoundError } from '../errors.js'
import { newRunId } from './ids.js'

/** How long an idempotency key is remembered: a day. */
const IDEMPOTENCY_TTL_MS = 24 * 60 * 60 * 1000

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

	const runId = input.runId ?? newRunId()
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
	const stored = keys
		.map((key, position) => ({ key, value: values[position] }))
		.filter(({ value }) => value !== null)
	const [row] = await query<{ outcome: string; run_id: string; status: string | null }>(
		db,
		`select outcome, run_id, status from flowcraft_start_run(
			$1::text, $2::text, $3::text, $4::text::text[], $5::text::text[], $6::text::text[], $7::text, null,
			$8::text, $9::text, $10::text, $11::bigint)`,
		[
			runId,
			input.blueprint,
			input.version ?? null,
			textArray(stored.map(({ key }) => key)),
			textArray(stored.map(({ value }) => value)),
			textArray(input.tags ?? []),
			input.traceparent ?? null,
			input.idempotencyScope ?? '',
			input.idempotencyKey ?? null,
			requestHash,
			IDEMPOTENCY_TTL_MS,
		],
	)
	switch (row?.outcome) {
		case 'started':
		case 'repeated':
			return {
				runId: row.run_id,
				status: row.status ?? 'running',
				repeated: row.outcome === 'repeated',
			}
		case 'conflict':
			throw new ConflictError(
				`The idempotency key '${input.idempotencyKey}' was used for run '${row.run_id}' with another request.`,
			)
		case 'exists':
			throw new ConflictError(`There is a run '${runId}' already.`)
		case 'unknown_version':
			throw new NotFoundError(
				`There is no version '${input.version}' of blueprint '${input.blueprint}'.`,
			)
		case 'unknown_blueprint':
			throw new NotFoundError(
				`There is no blueprint '${input.blueprint}'. Workers register theirs when they start; PUT /blueprints/${input.blueprint} registers one by hand.`,
			)
		default:
			throw new Error(`flowcraft_start_run answered '${row?.outcome}'`)
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
