/** `npm run client`: starts one run, waits for its end, prints how it ended and what came out. */
import { readFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { z } from 'zod'
import type { Run } from '../src/client/index.js'
import {
	ENVIRONMENT_HELP,
	EXIT_INTERRUPTED,
	exitCodeFor,
	parseDuration,
	patientClient,
	UsageError,
} from './command-line.js'

const EXIT_CODES = { completed: 0, failed: 1, cancelled: 2 } as const
const EXIT_STILL_RUNNING = 3

const HELP = `Starts a run, waits for its end and prints the result.

  npm run client -- --blueprint content-moderation --input '{"userId": 1, "userPost": "Hello!"}'
  npm run client -- --run <id>

  -b, --blueprint <id>     what to run
  -i, --input <json>       its input, a JSON object; @file.json reads it from a file (default {})
      --version <version>  a version of the blueprint (default: the current one)
  -t, --tag <tag>          may be given several times
  -k, --key <key>          idempotency key: with the same key, the same run (default: a new one)
  -r, --run <id>           waits for a run that was started before
      --timeout <time>     how long to wait, such as 90s, 5m or 1h (default 10m); the run goes on after that
      --json               prints everything the server says about the run, as JSON and nothing else
  -h, --help

Exit codes: 0 COMPLETED, 1 FAILED or an error, 2 CANCELLED, 3 not ended in time, 64 wrong usage.
^C stops the waiting, not the run.

${ENVIRONMENT_HELP}`

async function main(): Promise<number> {
	const { values: flags } = parseArgs({
		options: {
			blueprint: { type: 'string', short: 'b' },
			input: { type: 'string', short: 'i', default: '{}' },
			version: { type: 'string' },
			tag: { type: 'string', short: 't', multiple: true },
			key: { type: 'string', short: 'k' },
			run: { type: 'string', short: 'r' },
			timeout: { type: 'string', default: '10m' },
			json: { type: 'boolean', default: false },
			help: { type: 'boolean', short: 'h', default: false },
		},
	})
	if (flags.help) {
		console.log(HELP)
		return 0
	}
	if ((flags.blueprint === undefined) === (flags.run === undefined))
		throw new UsageError('Give either --blueprint or --run.')
	const timeoutMs = parseDuration('--timeout', flags.timeout)
	const { client } = patientClient((problem) =>
		console.error(
			problem === undefined ? 'The server answers again.' : `Waiting for the server (${problem}) …`,
		),
	)

	let runId = flags.run
	process.once('SIGINT', () => {
		console.error(
			runId
				? `\nRun ${runId} goes on. To wait for it: npm run client -- --run ${runId}`
				: '\nNothing was confirmed as started yet.',
		)
		process.exit(EXIT_INTERRUPTED)
	})
	const signal = AbortSignal.timeout(timeoutMs)
	try {
		if (flags.blueprint !== undefined) {
			const { blueprint, version, tag: tags } = flags
			const started = await client.start(blueprint, {
				input: await readInput(flags.input),
				...(version !== undefined && { version }),
				...(tags && { tags }),
				...(flags.key !== undefined && { idempotencyKey: flags.key }),
				signal,
			})
			runId = started.runId
			console.error(`Started run ${runId}`)
		}
		const run = await client.wait(runId ?? '', { signal, onProgress: reportPauses() })
		if (flags.json) console.log(JSON.stringify(run, null, 2))
		else print(run)
		return EXIT_CODES[run.status as keyof typeof EXIT_CODES]
	} catch (error) {
		if (!signal.aborted) throw error
		console.error(
			runId
				? `Run ${runId} has not ended within ${flags.timeout}; it goes on.`
				: `Could not start the run within ${flags.timeout}.`,
		)
		return EXIT_STILL_RUNNING
	}
}

async function readInput(text: string): Promise<Record<string, unknown>> {
	let input: unknown
	try {
		input = JSON.parse(text.startsWith('@') ? await readFile(text.slice(1), 'utf8') : text)
	} catch (error) {
		throw new UsageError(
			`--input must be a JSON object: ${error instanceof Error ? error.message : String(error)}`,
		)
	}
	const { success, data } = z.record(z.string(), z.unknown()).safeParse(input)
	if (!success) throw new UsageError('--input must be a JSON object.')
	return data
}

/** Says once what a run is waiting for, and again only when that changes. */
function reportPauses(): (run: Run) => void {
	let reported = ''
	return ({ status, awaiting }) => {
		const nodes = awaiting
			?.map(({ nodeId, reason }) => (reason ? `${nodeId} (${reason})` : nodeId))
			.join(', ')
		const now = status === 'running' ? '' : nodes ? `${status}: ${nodes}` : status
		if (now && now !== reported) console.error(`The run is ${now}`)
		reported = now
	}
}

/** The context without Flowcraft's own keys: they repeat what nodes returned. `--json` shows them. */
function print(run: Run): void {
	console.log(run.status.toUpperCase() + (run.reason ? `: ${run.reason}` : ''))
	for (const { nodeId, message } of run.errors ?? []) console.log(`  ${nodeId}: ${message}`)
	if (!run.result) return
	const context = Object.fromEntries(
		Object.entries(run.result.context).filter(([key]) => !key.startsWith('_')),
	)
	console.log(JSON.stringify({ ...run.result, context }, null, 2))
}

process.exitCode = await main().catch(exitCodeFor)
