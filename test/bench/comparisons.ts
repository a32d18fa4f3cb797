/** What is set against what, and which of these ratios have to be reached. Pure. */
import type { Results } from './results.js'

export interface Comparison {
	readonly name: string
	/** Names of measurements. */
	readonly of: string
	/** Undefined: `of` is compared itself. */
	readonly against?: string
	readonly atLeast?: number
	readonly atMost?: number
}

export interface Verdict extends Comparison {
	readonly value: number
	/** Undefined where nothing has to be reached. */
	readonly isReached: boolean | undefined
}

/**
 * Figures of Flowcraft's own RabbitMQ adapter, measured once on a machine with two cores: constants, as it is no
 * dependency of this package.
 */
const REFERENCE_ADAPTER = 'reference adapter (a constant)'
export const REFERENCE: Readonly<Record<string, number>> = {
	[`${REFERENCE_ADAPTER}: chain of 3`]: 26,
	[`${REFERENCE_ADAPTER}: fan-out 1,000`]: 15,
}

/**
 * A heap after collection differs by hundreds of kilobytes for reasons of its own, which is this for each of 10,000 runs.
 * Whoever kept a run, if only its id in a set, would need more.
 */
const HEAP_NOISE_BYTES = 64

const DBOS = 'DBOS 5.3.0'
const OPENWORKFLOW = 'OpenWorkflow 0.10.1'
const BULLMQ = 'BullMQ 6.7.0 flows'

const COMPARISONS: readonly Comparison[] = [
	...chain(DBOS, 8),
	...chain(OPENWORKFLOW, 8),
	...chain(BULLMQ, 2),
	{
		name: 'chain of 3 against pgbench, 32 clients, our rows',
		of: 'chain of 3',
		against: 'pgbench, 32 clients, our rows',
		atLeast: 1,
	},
	...fanOut(DBOS, 10),
	...fanOut(OPENWORKFLOW, 8),
	...fanOut(BULLMQ, 1.5),
	{
		name: 'time per node, fan-outs of 10,000 against 100',
		of: 'fan-outs of 100',
		against: 'fan-outs of 10,000',
		atMost: 1.2,
	},
	{
		name: 'time per node, contexts of 10 MiB against 10 KiB',
		of: 'small nodes, context of 10 KiB',
		against: 'small nodes, context of 10 MiB',
		atMost: 1.2,
	},
	{
		name: 'time per node, beside finished nodes against none',
		of: 'chain of 3, empty database',
		against: 'chain of 3, beside finished nodes',
		atMost: 1.1,
	},
	{
		name: 'one node, p50, against a commit and a confirm',
		of: 'one node, p50',
		against: 'one commit and one confirm, p50',
		atMost: 3,
	},
	{
		name: 'relay drain against amqplib',
		of: 'relay drain',
		against: 'amqplib, as many messages',
		atLeast: 0.6,
	},
	{
		name: 'memory per awaiting run, relay',
		of: 'memory per awaiting run, relay',
		atMost: HEAP_NOISE_BYTES,
	},
	{
		name: 'memory per awaiting run, worker',
		of: 'memory per awaiting run, worker',
		atMost: HEAP_NOISE_BYTES,
	},
	{ name: 'POST /runs against a bare insert', of: 'POST /runs', against: 'bare Hono insert', atLeast: 0.7 },
	{
		name: 'chain of 3 against pgbench, 32 clients, bare rows',
		of: 'chain of 3',
		against: 'pgbench, 32 clients, bare rows',
	},
	{
		name: 'chain of 3 against pgbench, 1 client, our rows',
		of: 'chain of 3',
		against: 'pgbench, 1 clients, our rows',
	},
	...chain(REFERENCE_ADAPTER),
	...fanOut(REFERENCE_ADAPTER),
	{ name: 'chain of 3, two workers against one', of: 'chain of 3, two workers', against: 'chain of 3' },
	{
		name: 'fan-out 1,000, two workers against one',
		of: 'fan-out 1,000, two workers',
		against: 'fan-out 1,000',
	},
]

function chain(other: string, atLeast?: number): Comparison[] {
	return [
		{
			name: `chain of 3 against ${other}`,
			of: 'chain of 3',
			against: `${other}: chain of 3`,
			...(atLeast === undefined ? {} : { atLeast }),
		},
	]
}

function fanOut(other: string, atLeast?: number): Comparison[] {
	return [
		{
			name: `fan-out 1,000 against ${other}`,
			of: 'fan-out 1,000',
			against: `${other}: fan-out 1,000`,
			...(atLeast === undefined ? {} : { atLeast }),
		},
	]
}

/** Those whose figures there are. */
export function compare(results: Results, comparisons: readonly Comparison[] = COMPARISONS): Verdict[] {
	return comparisons.flatMap((comparison) => {
		const { of, against, atLeast, atMost } = comparison
		const value = against === undefined ? results.value(of) : results.ratio(of, against)
		if (value === undefined) return []
		const isReached =
			atLeast === undefined && atMost === undefined
				? undefined
				: value >= (atLeast ?? Number.NEGATIVE_INFINITY) &&
					value <= (atMost ?? Number.POSITIVE_INFINITY)
		return [{ ...comparison, value, isReached }]
	})
}
