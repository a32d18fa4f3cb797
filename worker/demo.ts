/**
 * `npm run demo`: sends every sample post through the content-moderation workflow of a running server and compares
 * the verdicts with the expected ones. Restart the server meanwhile, or kill it: the demo waits and goes on.
 */
import { randomUUID } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { z } from 'zod'
import { type Client, NotFoundError, type Run } from '../src/client/index.js'
import {
	ENVIRONMENT_HELP,
	EXIT_INTERRUPTED,
	exitCodeFor,
	parseDuration,
	patientClient,
	UsageError,
} from './command-line.js'
import { samplePosts, type SamplePost } from './workflows/content-moderation/sample-posts.js'

const REQUESTS_AT_ONCE = 16
const MAX_REPEAT = 10_000
/** How often to look whether a worker is there, before the first run has ended; in ms. */
const LOOK_EVERY_MS = 2_000
/** Without a terminal, progress is a line for each of so many parts. */
const PROGRESS_LINES = 4

const HELP = `Sends ${samplePosts.length} sample posts through the content-moderation workflow and compares the verdicts.

  npm run demo

  -n, --repeat <times>   sends every post so often (default 1)
  -k, --key <key>        repeats an earlier demo: posts it has started are not started again (default: a new key)
      --timeout <time>   for everything, such as 90s, 5m or 1h (default 5m)
  -h, --help

Exit codes: 0 if every verdict is the expected one, 1 if not, 64 wrong usage.
^C stops the demo, not the runs it has started.

${ENVIRONMENT_HELP}`

interface Delivery {
	readonly post: SamplePost
	readonly idempotencyKey: string
	runId?: string
	/** What became of it: a verdict, or a word of ours if there is none. */
	outcome?: string
}

async function main(): Promise<number> {
	const { values: flags } = parseArgs({
		options: {
			repeat: { type: 'string', short: 'n', default: '1' },
			key: { type: 'string', short: 'k', default: `demo-${randomUUID()}` },
			timeout: { type: 'string', default: '5m' },
			help: { type: 'boolean', short: 'h', default: false },
		},
	})
	if (flags.help) {
		console.log(HELP)
		return 0
	}
	const repeat = Number(flags.repeat)
	if (!Number.isInteger(repeat) || repeat < 1 || repeat > MAX_REPEAT)
		throw new UsageError(`--repeat must be a number from 1 to ${MAX_REPEAT}.`)
	const timeoutMs = parseDuration('--timeout', flags.timeout)
	const deliveries: Delivery[] = Array.from({ length: repeat }, (_, round) =>
		samplePosts.map((post) => ({ post, idempotencyKey: `${flags.key}/${round}/${post.id}` })),
	).flat()
	const progress = createProgress(deliveries)
	const { client, url, apiKey } = patientClient((problem) =>
		progress.say(
			problem === undefined ? 'The server answers again.' : `Waiting for the server (${problem}) …`,
		),
	)
	console.log(`Sending ${deliveries.length} posts to ${url} (key ${flags.key})`)
	process.once('SIGINT', () => {
		progress.say(
			`Runs that were started go on. To look at them again: npm run demo -- --repeat ${repeat} --key ${flags.key}`,
		)
		process.exit(EXIT_INTERRUPTED)
	})

	const startedAt = performance.now()
	const timeout = AbortSignal.timeout(timeoutMs)
	const giveUp = new AbortController()
	const signal = AbortSignal.any([timeout, giveUp.signal])
	setMaxListeners(2 * REQUESTS_AT_ONCE, signal)
	const listWorkers = () =>
		fetch(`${url}/workers`, {
			headers: apiKey === undefined ? {} : { Authorization: `Bearer ${apiKey}` },
			signal,
		})
	void watchWorkers({ client, listWorkers, deliveries, signal }).then(
		(problem) => problem !== undefined && giveUp.abort(new Error(problem)),
	)
	try {
		await forEach(deliveries, async (delivery) => {
			const { id, userId, userPost } = delivery.post
			const started = await client.start('content-moderation', {
				input: { userId, userPost },
				tags: ['demo', `sample:${id}`],
				idempotencyKey: delivery.idempotencyKey,
				signal,
			})
			delivery.runId = started.runId
			progress.update()
		})
		await forEach(deliveries, async (delivery) => {
			delivery.outcome = outcomeOf(await client.wait(delivery.runId ?? '', { signal }))
			progress.update()
		})
	} catch (error) {
		if (error instanceof NotFoundError)
			throw new Error(
				`The server at ${url} has no content-moderation workflow: start it without WORKFLOWS.`,
				{ cause: error },
			)
		if (!timeout.aborted) throw error
		progress.say(`Not everything has ended within ${flags.timeout}.`)
	} finally {
		giveUp.abort()
		progress.end()
	}
	return report(deliveries, performance.now() - startedAt)
}

interface Watched {
	readonly client: Client
	readonly listWorkers: () => Promise<Response>
	readonly deliveries: readonly Delivery[]
	readonly signal: AbortSignal
}

/**
 * Looks whether anybody can run it, until the first run has ended or the signal aborts: without a worker for it the runs
 * would wait as long as they are let. Resolves with what is missing, once two looks in a row have found the same: a worker
 * that is just replaced is there at the next one.
 */
async function watchWorkers(watched: Watched): Promise<string | undefined> {
	const { deliveries, signal } = watched
	for (let last: string | undefined; ;) {
		try {
			await delay(LOOK_EVERY_MS, undefined, { signal })
		} catch {
			return undefined
		}
		if (deliveries.some(({ outcome }) => outcome !== undefined)) return undefined
		const problem = await missingWorker(watched)
		if (problem !== undefined && problem === last) return problem
		last = problem
	}
}

const workersSchema = z.object({ workers: z.array(z.object({ status: z.string() })) })

/** Why nobody runs it, as far as the server tells. */
async function missingWorker({
	client,
	listWorkers,
	deliveries,
	signal,
}: Watched): Promise<string | undefined> {
	const { runId } = deliveries.find((delivery) => delivery.runId !== undefined) ?? {}
	if (runId === undefined) return undefined
	try {
		const { workers } = workersSchema.parse(await (await listWorkers()).json())
		if (!workers.some(({ status }) => status === 'alive'))
			return 'The server has taken the posts, but no worker is there to run them: start one with npm run start:worker.'
		const { nodes } = await client.nodes(runId, { signal })
		const isUnrunnable = nodes.some(({ unrunnableSince }) => unrunnableSince !== undefined)
		if (isUnrunnable && nodes.every(({ finishedAt }) => finishedAt === undefined))
			return 'The server has taken the posts, but no worker offers the content-moderation workflow: start one without WORKFLOWS.'
	} catch {
		// Away, or not to be asked by us: then there is nothing to go by.
	}
	return undefined
}

/** A few at once, in order. Rejects at the first failure; the caller then stops the others by their signal. */
async function forEach<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
	const queue = items.values()
	await Promise.all(
		Array.from({ length: REQUESTS_AT_ONCE }, async () => {
			for (const item of queue) await work(item)
		}),
	)
}

const moderatedSchema = z.object({ moderation_result: z.object({ verdict: z.string() }) })

function outcomeOf(run: Run): string {
	if (run.status !== 'completed') return run.status.toUpperCase()
	return (
		moderatedSchema.safeParse(run.result?.context).data?.moderation_result.verdict ??
		'completed without a verdict'
	)
}

/** One line that is written over on a terminal; a few lines elsewhere. */
function createProgress(deliveries: readonly Delivery[]) {
	const onTerminal = process.stdout.isTTY
	const total = deliveries.length
	const linesAt = Math.ceil(total / PROGRESS_LINES)
	let ended = false
	const state = () =>
		`started ${deliveries.filter(({ runId }) => runId).length}, finished ${deliveries.filter(({ outcome }) => outcome).length} of ${total}`
	const erase = () => onTerminal && process.stdout.write('\r\u001b[K')
	let updates = 0
	return {
		update() {
			updates += 1
			if (ended) return
			if (onTerminal) process.stdout.write(`\r\u001b[K${state()}`)
			else if (updates % linesAt === 0 || updates === 2 * total) console.log(state())
		},
		say(message: string) {
			erase()
			console.log(message)
		},
		end() {
			ended = true
			erase()
		},
	}
}

/** The table, the total, and the run ids of what went wrong. Returns the exit code. */
function report(deliveries: readonly Delivery[], tookMs: number): number {
	const rows = samplePosts.map((post) => {
		const own = deliveries.filter((delivery) => delivery.post === post)
		const right = own.every(({ outcome }) => outcome === post.expected)
		return [
			right ? 'ok' : 'WRONG',
			post.id,
			post.expected,
			tally(own.map(({ outcome }) => outcome ?? 'not ended')),
			excerpt(post.userPost),
		]
	})
	console.log(table([['', 'post', 'expected', 'verdict', 'text'], ...rows]))

	const wrong = deliveries.filter(({ post, outcome }) => outcome !== post.expected)
	console.log(
		`\n${deliveries.length - wrong.length} of ${deliveries.length} verdicts as expected, in ${(tookMs / 1000).toFixed(1)} s`,
	)
	for (const { post, runId, outcome } of wrong)
		console.log(`  ${post.id}: ${outcome ?? 'not ended'}, run ${runId ?? 'not started'}`)
	return wrong.length === 0 ? 0 : 1
}

/** "approved", or "approved 2, FAILED 1" if the same post did not always fare alike. */
function tally(outcomes: readonly string[]): string {
	const distinct = [...new Set(outcomes)]
	if (distinct.length === 1) return distinct.join('')
	return distinct
		.map((outcome) => `${outcome} ${outcomes.filter((other) => other === outcome).length}`)
		.join(', ')
}

const EXCERPT_CHARACTERS = 40

function excerpt(text: string): string {
	const line = [...text.slice(0, 4 * EXCERPT_CHARACTERS).replace(/\s+/g, ' ')]
	return line.length > EXCERPT_CHARACTERS
		? `${line.slice(0, EXCERPT_CHARACTERS - 1).join('')}…`
		: line.join('')
}

function table(rows: readonly (readonly string[])[]): string {
	const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? []
	return rows
		.map((row) =>
			row
				.map((cell, column) => cell.padEnd(widths[column] ?? 0))
				.join('  ')
				.trimEnd(),
		)
		.join('\n')
}

process.exitCode = await main().catch(exitCodeFor)
