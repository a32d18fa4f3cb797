/** The command line, and the sizes that follow from it. Pure. */
import { parseArgs } from 'node:util'

export const HELP = `npm run bench -- [options]

Measures the engine on private servers (Postgres with fsync, RabbitMQ, Redis), side by side with DBOS, OpenWorkflow and
BullMQ flows, and against the floors: pgbench, amqplib, a bare Hono handler. Prints a table and writes
bench-results.json.

  --only NAME[,NAME]   only these stages (below), and what they are compared with if you name it too
  --repetitions N      medians over so many rounds (default 3; with --quick 1)
  --quick              small sizes: about two minutes for everything
  --env NAME=VALUE     of the relay and the workers, for example --env CONCURRENCY=64; repeatable
  --profile            one round; relay and workers write .cpuprofile files, Postgres its plans and pg_stat_statements,
                       into .bench-profile/ (how to read them: test/bench/profile.ts)
  --calculate          measure nothing: what 1,000 to 100,000 nodes per second need, by the costs in bench-results.json
  --help
`

/** How much each stage does. Runs that are compared with each other execute the same number of nodes. */
export interface Sizes {
	/** Runs at once in the stages of chains. */
	readonly inFlight: number
	/** Runs in all, of chains that are not compared with others. */
	readonly runs: number
	/** What is compared with others: not measured first, so that all are warm, and then measured for so long. */
	readonly warmUpSeconds: number
	readonly paceSeconds: number
	/** Nodes in all where fan-outs of several widths are compared. */
	readonly fanOutNodes: number
	readonly widths: readonly number[]
	readonly batches: readonly number[]
	readonly mixedRuns: number
	readonly contextBytes: readonly number[]
	readonly contextRuns: number
	readonly latencySamples: number
	readonly outboxRows: number
	readonly historyNodes: number
	readonly floorSeconds: number
	readonly httpSeconds: number
	readonly idleSeconds: number
	readonly awaitingRuns: number
}

const KIB = 1024
const MIB = 1024 * KIB

const FULL: Sizes = {
	inFlight: 500,
	runs: 4_000,
	warmUpSeconds: 4,
	paceSeconds: 5,
	fanOutNodes: 10_000,
	widths: [100, 1_000, 10_000],
	batches: [1_000, 10_000],
	mixedRuns: 300,
	contextBytes: [10 * KIB, MIB, 10 * MIB],
	contextRuns: 20,
	latencySamples: 200,
	outboxRows: 100_000,
	historyNodes: 1_000_000,
	floorSeconds: 4,
	httpSeconds: 4,
	idleSeconds: 10,
	awaitingRuns: 10_000,
}

const QUICK: Sizes = {
	inFlight: 200,
	runs: 400,
	warmUpSeconds: 1,
	paceSeconds: 1,
	fanOutNodes: 1_000,
	widths: [100, 1_000],
	batches: [1_000],
	mixedRuns: 100,
	contextBytes: [10 * KIB, 10 * MIB],
	contextRuns: 4,
	latencySamples: 40,
	outboxRows: 5_000,
	historyNodes: 100_000,
	floorSeconds: 2,
	httpSeconds: 2,
	idleSeconds: 4,
	awaitingRuns: 1_000,
}

export interface Options {
	readonly help: boolean
	readonly calculate: boolean
	readonly profile: boolean
	readonly quick: boolean
	readonly repetitions: number
	/** Undefined: all stages. */
	readonly only: readonly string[] | undefined
	readonly environment: Readonly<Record<string, string>>
	readonly sizes: Sizes
}

/** @throws Error that says what is wrong with the arguments */
export function readOptions(args: readonly string[], stages: readonly string[]): Options {
	const { values } = parseArgs({
		args: [...args],
		options: {
			only: { type: 'string' },
			repetitions: { type: 'string' },
			quick: { type: 'boolean', default: false },
			env: { type: 'string', multiple: true, default: [] },
			profile: { type: 'boolean', default: false },
			calculate: { type: 'boolean', default: false },
			help: { type: 'boolean', default: false },
		},
	})
	const only = values.only?.split(',').map((name) => name.trim())
	const unknown = only?.filter((name) => !stages.includes(name)) ?? []
	if (unknown.length > 0)
		throw new Error(`There is no stage ${unknown.join(', ')}; there are ${stages.join(', ')}`)
	const repetitions = Number(values.repetitions ?? (values.quick || values.profile ? 1 : 3))
	if (!Number.isInteger(repetitions) || repetitions < 1)
		throw new Error('--repetitions takes a whole number of at least 1')
	return {
		help: values.help,
		calculate: values.calculate,
		profile: values.profile,
		quick: values.quick,
		repetitions,
		only,
		environment: Object.fromEntries(values.env.map(readVariable)),
		sizes: values.quick ? QUICK : FULL,
	}
}

function readVariable(text: string): [string, string] {
	const at = text.indexOf('=')
	if (at < 1) throw new Error(`--env takes NAME=VALUE, not '${text}'`)
	return [text.slice(0, at), text.slice(at + 1)]
}
