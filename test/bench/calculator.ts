/**
 * What a number of nodes per second needs, by the measured cost of a node: `npm run bench -- --calculate`. Pure.
 *
 * CPU time is that of the machine that was measured, and a share of the servers' own work grows with the number of
 * clients, so the answer is the size of an installation, not its last core.
 */
import type { CostPerNode } from './costs.js'
import { formatNumber, table } from './table.js'

/** What one of each can take. Conservative, and stated so that a reader may put in others. */
export interface Capacity {
	/** Share of a core, disk or queue that steady load should use: the rest is for peaks and for catching up. */
	readonly utilisation: number
	/** Cores of one Postgres primary. */
	readonly postgresCores: number
	/** WAL that one primary can write and its standby can follow, in bytes per second. */
	readonly walBytesPerSecond: number
	/** Messages that one quorum queue confirms and delivers in a second: a queue is one process of Erlang's. */
	readonly messagesPerQueue: number
}

const CAPACITY: Capacity = {
	utilisation: 0.6,
	postgresCores: 32,
	walBytesPerSecond: 150_000_000,
	messagesPerQueue: 10_000,
}

const RATES = [1_000, 10_000, 100_000] as const

export interface Limit {
	readonly of: string
	readonly nodesPerSecond: number
}

/** How many nodes per second one of each part can do at that utilisation, the tightest first. */
export function limits(cost: CostPerNode, capacity: Capacity = CAPACITY): Limit[] {
	const { utilisation, postgresCores, walBytesPerSecond, messagesPerQueue } = capacity
	const core = (program: string): number => (utilisation * 1_000) / (cost.cpuMs[program] ?? 0)
	const all: Limit[] = [
		{ of: 'a worker process (one core)', nodesPerSecond: core('worker') },
		{ of: 'a relay process (one core)', nodesPerSecond: core('relay') },
		{ of: 'a core of Postgres', nodesPerSecond: core('postgres') },
		{ of: `a Postgres of ${postgresCores} cores`, nodesPerSecond: core('postgres') * postgresCores },
		{
			of: `the WAL of one Postgres (${walBytesPerSecond / 1e6} MB/s)`,
			nodesPerSecond: (utilisation * walBytesPerSecond) / cost.walBytes,
		},
		{ of: 'a core of RabbitMQ', nodesPerSecond: core('rabbitmq') },
		{ of: 'a quorum queue', nodesPerSecond: (utilisation * messagesPerQueue) / cost.messages },
	]
	return all
		.filter(({ nodesPerSecond }) => Number.isFinite(nodesPerSecond))
		.toSorted((a, b) => a.nodesPerSecond - b.nodesPerSecond)
}

export interface Need {
	readonly nodesPerSecond: number
	readonly workers: number
	readonly relays: number
	readonly postgresCores: number
	/** Databases with a share of the runs each: one is not enough for the cores, or for the WAL. */
	readonly databases: number
	readonly rabbitMqCores: number
	readonly queues: number
	readonly statementsPerSecond: number
	readonly messagesPerSecond: number
	readonly walBytesPerSecond: number
	readonly walBytesPerDay: number
}

const SECONDS_PER_DAY = 86_400

export function needFor(nodesPerSecond: number, cost: CostPerNode, capacity: Capacity = CAPACITY): Need {
	const cores = (program: string): number =>
		(nodesPerSecond * (cost.cpuMs[program] ?? 0)) / 1_000 / capacity.utilisation
	const walBytesPerSecond = nodesPerSecond * cost.walBytes
	return {
		nodesPerSecond,
		workers: Math.ceil(cores('worker')),
		relays: Math.ceil(cores('relay')),
		postgresCores: Math.ceil(cores('postgres')),
		databases: Math.ceil(
			Math.max(
				cores('postgres') / capacity.postgresCores,
				walBytesPerSecond / capacity.walBytesPerSecond / capacity.utilisation,
			),
		),
		rabbitMqCores: Math.ceil(cores('rabbitmq')),
		queues: Math.ceil(
			(nodesPerSecond * cost.messages) / capacity.messagesPerQueue / capacity.utilisation,
		),
		statementsPerSecond: nodesPerSecond * cost.statements,
		messagesPerSecond: nodesPerSecond * cost.messages,
		walBytesPerSecond,
		walBytesPerDay: walBytesPerSecond * SECONDS_PER_DAY,
	}
}

/** As it is printed. */
export function calculation(name: string, cost: CostPerNode): string {
	const needs = RATES.map((rate) => needFor(rate, cost))
	const row = (title: string, figure: (need: Need) => string): string[] => [title, ...needs.map(figure)]
	const whole = (value: number): string => Math.round(value).toLocaleString('en')
	return [
		`By the cost of a node in "${name}", everything used to ${CAPACITY.utilisation * 100} % at most:`,
		table(
			['One of these', 'nodes/s'],
			limits(cost).map(({ of, nodesPerSecond }) => [of, whole(nodesPerSecond)]),
		),
		table(
			['Needs', ...RATES.map((rate) => `${rate.toLocaleString('en')} nodes/s`)],
			[
				row('worker processes', ({ workers }) => whole(workers)),
				row('relay processes', ({ relays }) => whole(relays)),
				row('cores of Postgres', ({ postgresCores }) => whole(postgresCores)),
				row('databases', ({ databases }) => whole(databases)),
				row('cores of RabbitMQ', ({ rabbitMqCores }) => whole(rabbitMqCores)),
				row('quorum queues', ({ queues }) => whole(queues)),
				row('statements per second', ({ statementsPerSecond }) => whole(statementsPerSecond)),
				row('messages per second', ({ messagesPerSecond }) => whole(messagesPerSecond)),
				row('WAL, MB per second', ({ walBytesPerSecond }) => formatNumber(walBytesPerSecond / 1e6)),
				row('WAL, TB per day', ({ walBytesPerDay }) => formatNumber(walBytesPerDay / 1e12)),
			],
		),
	].join('\n\n')
}
