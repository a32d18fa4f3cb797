/**
 * Faults as values: each does its harm to a laboratory under load, waits as long as it has to, and mends what does not
 * mend itself, so that any of them may follow any other, or overlap. Processes that a fault ends are for `lab.supervise`
 * to start again.
 *
 *     const fault = random.pick(faultsFor(lab))
 *     await fault.strike(lab, random)
 */
import { setTimeout as delay } from 'node:timers/promises'
import { connect } from 'amqplib'
import { Redis } from 'ioredis'
import type { Direction, TcpProxy } from '../../support/tcp-proxy.js'
import { waitFor } from '../../support/wait-for.js'
import { POSTGRES_DOWN } from './checker.js'
import { type Lab, type LabProcess, type ServerName, TIMES } from './lab.js'
import type { Random } from './random.js'

export interface Fault {
	readonly name: string
	/** The private servers that it kills; the others need only roads and processes. */
	readonly needs: readonly ServerName[]
	/** Weighs how often it is worth its time: 1 for seconds, 10 for an instant. */
	readonly weight: number
	/** Resolves when the harm is done and mended. */
	strike(lab: Lab, random: Random): Promise<void>
}

/** Those for which this laboratory has the servers. */
export function faultsFor(lab: Lab): Fault[] {
	return allFaults.filter(({ needs }) => needs.every((server) => lab.servers[server] !== undefined))
}

const processFault = (name: string, weight: number, role: Role, harm: Harm): Fault => ({
	name,
	weight,
	needs: [],
	async strike(lab, random) {
		const running = { functions: lab.functions, relay: lab.relays, worker: lab.workers }[role]
		if (running.length > 0) await harm(random.pick(running), random)
	},
})
type Role = LabProcess['role']
type Harm = (victim: LabProcess, random: Random) => Promise<unknown>

/** Past the lease (or not): it takes up where it stood, and must not finish what others have. */
const freezeFor =
	(longest: number): Harm =>
	async (victim, random) => {
		victim.freeze()
		await delay(random.between(50, longest))
		victim.thaw()
	}

const roadFault = (
	name: string,
	server: ServerName,
	harm: (road: TcpProxy, random: Random) => Promise<void> | void,
): Fault => ({
	name,
	weight: 3,
	needs: [],
	async strike(lab, random) {
		lab.note(name)
		await harm(lab.roads[server], random)
	},
})

const forAWhile =
	(
		begin: (road: TcpProxy, direction: Direction) => void,
		end: (road: TcpProxy) => unknown,
		longest = 1_500,
	) =>
	async (road: TcpProxy, random: Random): Promise<void> => {
		begin(road, random.pick<Direction>(['to server', 'to client', 'both']))
		await delay(random.between(50, longest))
		await end(road)
	}

const roadFaults = (server: ServerName): Fault[] => [
	roadFault(`${server}: connections cut`, server, (road) => road.cut()),
	roadFault(
		`${server}: silence`,
		server,
		forAWhile(
			(road, direction) => road.pause(direction),
			(road) => road.resume(),
		),
	),
	roadFault(
		`${server}: bytes vanish`,
		server,
		forAWhile(
			(road, direction) => road.blackhole(direction),
			(road) => {
				// What follows on such a connection would be garbage.
				road.cut()
				road.resume()
			},
		),
	),
	roadFault(
		`${server}: slow`,
		server,
		forAWhile(
			(road) => road.delay(60),
			(road) => road.delay(0),
		),
	),
	roadFault(
		`${server}: refuses connections`,
		server,
		forAWhile(
			(road) => {
				road.refuse()
				road.cut()
			},
			(road) => road.accept(),
		),
	),
]

/** Those of everybody but the laboratory. `state` as in `pg_stat_activity`. */
export async function terminateBackends(lab: Lab, state: 'idle' | 'active' | 'any'): Promise<number> {
	lab.note(`terminate ${state} backends`)
	const rows = await lab.rows(
		`select pg_terminate_backend(pid) from pg_stat_activity
		where datname = current_database() and pid <> pg_backend_pid() and application_name <> 'lab'
			and ($1 = 'any' or ($1 = 'idle') = (state = 'idle'))`,
		state,
	)
	return rows.length
}

/** An immediate shutdown: no checkpoint, every backend quits at once, and recovery at the next start. */
export async function restartPostgresImmediately(lab: Lab): Promise<void> {
	lab.note(POSTGRES_DOWN)
	await lab.servers.postgres?.kill('SIGQUIT')
	await lab.servers.postgres?.restart()
}

/** Runs `work` on a channel of its own, straight to the broker. */
export async function onBroker<T>(
	lab: Lab,
	work: (channel: Awaited<ReturnType<Awaited<ReturnType<typeof connect>>['createChannel']>>) => Promise<T>,
): Promise<T> {
	const connection = await connect(lab.rabbitMqUrl)
	connection.on('error', () => {})
	try {
		const channel = await connection.createChannel()
		channel.on('error', () => {})
		return await work(channel)
	} finally {
		await connection.close().catch(() => {})
	}
}

export async function flushRedis(lab: Lab): Promise<void> {
	const url = lab.servers.redis?.url
	if (url === undefined) throw new Error('This laboratory has no Redis of its own')
	const client = new Redis(url, { lazyConnect: true, retryStrategy: () => null })
	client.on('error', () => {})
	try {
		await client.connect()
		await client.flushall()
	} finally {
		client.disconnect()
	}
}

const terminations = (['idle', 'active', 'any'] as const).map((state): Fault => ({
	name: `postgres: ${state} backends terminated`,
	weight: 3,
	needs: [],
	strike: async (lab) => void (await terminateBackends(lab, state)),
}))

const brokerFault = (name: string, work: Parameters<typeof onBroker>[1], weight = 3): Fault => ({
	name,
	weight,
	needs: [],
	async strike(lab) {
		lab.note(name)
		// The broker may be down by another fault: then there is nothing to harm.
		await onBroker(lab, (channel) => work(channel)).catch(() => {})
	},
})

const serverFaults: readonly Fault[] = [
	{
		name: 'postgres: restarted immediately',
		weight: 1,
		needs: ['postgres'],
		strike: (lab) => restartPostgresImmediately(lab),
	},
	{
		name: 'rabbitMq: killed and started again',
		weight: 0.2,
		needs: ['rabbitMq'],
		async strike(lab) {
			lab.note(this.name)
			await lab.servers.rabbitMq?.kill()
			await lab.servers.rabbitMq?.restart()
		},
	},
	{
		name: 'redis: killed and started again',
		weight: 2,
		needs: ['redis'],
		async strike(lab) {
			lab.note(this.name)
			await lab.servers.redis?.kill()
			await lab.servers.redis?.restart()
		},
	},
	{
		name: 'redis: flushed',
		weight: 3,
		needs: ['redis'],
		async strike(lab) {
			lab.note(this.name)
			await flushRedis(lab).catch(() => {})
		},
	},
	{
		name: 'redis: stopped for a while',
		weight: 2,
		needs: ['redis'],
		async strike(lab, random) {
			lab.note(this.name)
			await lab.servers.redis?.kill('SIGSTOP')
			await delay(random.between(100, 1_500))
			await lab.servers.redis?.kill('SIGCONT')
		},
	},
]

const LEASE_AND_MORE_MS = TIMES.LEASE_MS * 2

const allFaults: readonly Fault[] = [
	processFault('worker: killed', 6, 'worker', (victim) => victim.kill()),
	processFault('worker: stopped for a while', 4, 'worker', freezeFor(LEASE_AND_MORE_MS)),
	processFault('worker: told to stop', 2, 'worker', (victim) => victim.stop()),
	processFault('relay: killed', 6, 'relay', (victim) => victim.kill()),
	processFault('relay: stopped for a while', 3, 'relay', freezeFor(TIMES.RELAY_CLAIM_MS * 3)),
	processFault('functions: killed', 3, 'functions', (victim) => victim.kill()),
	...roadFaults('postgres'),
	...roadFaults('rabbitMq'),
	...roadFaults('redis'),
	...terminations,
	{
		name: 'rabbitMq: queue purged',
		weight: 3,
		needs: [],
		async strike(lab) {
			lab.note(this.name)
			await onBroker(lab, (channel) => channel.purgeQueue(lab.queue)).catch(() => {})
		},
	},
	{
		name: 'rabbitMq: queue deleted',
		weight: 2,
		needs: [],
		async strike(lab) {
			lab.note(this.name)
			await onBroker(lab, (channel) => channel.deleteQueue(lab.queue)).catch(() => {})
		},
	},
	{
		name: 'rabbitMq: queue unbound',
		weight: 2,
		needs: [],
		async strike(lab) {
			lab.note(this.name)
			await onBroker(lab, (channel) => channel.unbindQueue(lab.queue, 'flowcraft', lab.queue)).catch(
				() => {},
			)
		},
	},
	// Only where the exchange is nobody else's.
	{
		...brokerFault('rabbitMq: exchange deleted', (channel) => channel.deleteExchange('flowcraft'), 2),
		needs: ['rabbitMq'],
	},
	...serverFaults,
]

/** When the broker's port is open again; asks every few milliseconds. */
export async function portOpen(port: number, deadlineMs = 120_000): Promise<number> {
	const { connect: dial } = await import('node:net')
	return waitFor(
		`port ${port} to open`,
		() =>
			new Promise<number>((resolve, reject) => {
				const socket = dial({ port, host: '127.0.0.1' })
				socket.once('connect', () => {
					socket.destroy()
					resolve(Date.now())
				})
				socket.once('error', reject)
			}),
		{ everyMs: 10, deadlineMs },
	)
}
