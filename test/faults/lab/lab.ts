/**
 * The fault laboratory: the whole system as real processes on real servers, all of it the laboratory's to mistreat.
 *
 *     const lab = await openLab({ postgres: 'private', rabbitMq: 'shared', redis: 'none' })   // in beforeAll
 *     await lab.startFunctions(); await lab.startRelay(); await lab.startWorker()
 *     const work = createWorkload(lab, { seed: 1 })                                          // workload.ts
 *     await work.start(100)                  // mixed blueprints, over HTTP, repeated until accepted
 *     await lab.workers[0].kill()            // or a fault as a value, see faults.ts
 *     await work.finish()                    // resumes what waits, waits for all ends
 *     expectSound(await checkHistory(lab, work.ledger, { minimumCompleted: 90 }))            // checker.ts
 *     await lab.close()                                                                      // in afterAll
 *
 * - **Servers.** `private` ones are started here and can be killed (`lab.servers`); `shared` ones are the suite's, with a
 *   database and a queue of the laboratory's own on them: only their *roads* may be harmed. RabbitMQ boots for seconds, so
 *   a file has one laboratory and its tests share it. Processes take a moment to start: `lab.rest(kept)`
 *   between tests ends the others and mends all roads.
 * - **Roads.** Every process reaches every server through a TCP proxy: `lab.roads` for all, or a road of its own
 *   (`await lab.road('rabbitMq')`, then `lab.startRelay({ roads: { rabbitMq: road } })`), for harm that nobody else
 *   takes. `road.when(direction, bytes, act)` acts in the very turn in which those bytes come by, before they are passed
 *   on. That is how a process is killed between two steps, without a hook in it: `wire.ts` names the bytes.
 * - **Processes.** `kill()` is SIGKILL, `freeze()` and `thaw()` are SIGSTOP and SIGCONT, `stop()` is SIGTERM. Under
 *   `lab.supervise()` whatever has ended is started again, as systemd or Kubernetes would.
 * - **Journal.** What was done to whom and when, `lab.journal`; the checker explains repeated executions by it.
 *
 * Times are short, so that a test lives to see a lease pass: see `TIMES`.
 */
import { createDatabase, type Database } from '../../../src/db/client.js'
import { withDeadline } from '../../../src/db/errors.js'
import { type Parameter, query, type Row } from '../../../src/db/query.js'
import { freePort } from '../../../worker/embedded/cluster.js'
import { migrate } from '../../../worker/db/migrate.js'
import { type Exit, type RunningProcess, spawnProcess } from '../../support/process.js'
import { installChangedSources } from '../../support/changed-sources.js'
import { isFull } from '../../support/size.js'
import {
	freshDatabase,
	freshQueueName,
	type PrivateServer,
	rabbitMq,
	redis,
	startPostgres,
	startRabbitMq,
	startRedis,
} from '../../support/services/index.js'
import type { PrivateRabbitMq } from '../../support/services/rabbitmq.js'
import { startProxy, type TcpProxy } from '../../support/tcp-proxy.js'
import { waitFor } from '../../support/wait-for.js'

export type ServerName = 'postgres' | 'rabbitMq' | 'redis'

export interface LabOptions {
	/** Default `shared`. */
	readonly postgres?: 'private' | 'shared'
	/** Default `shared`. */
	readonly rabbitMq?: 'private' | 'shared'
	/** Default `none`: doorbells are hints, and a laboratory without one waits for polls. */
	readonly redis?: 'private' | 'shared' | 'none'
	/** Over `TIMES`, for all processes. */
	readonly environment?: Environment
}

export type Environment = Readonly<Record<string, string>>

/** In ms, for all processes; a start may say otherwise. */
export const TIMES = {
	LEASE_MS: 2_000,
	SWEEP_MS: 200,
	RELAY_CLAIM_MS: 1_000,
	STALLED_MS: 2_000,
	DRAIN_MS: 5_000,
}

/**
 * What is forgiven over a promised time, in ms: the promise is for a machine that has nothing else to do, and the tests
 * of everybody run on any. `FULL=1` says that this is such a machine.
 */
export const SLACK_MS = isFull ? 500 : 8_000

export interface StartOptions {
	/** Roads of this process alone. */
	readonly roads?: Partial<Record<ServerName, TcpProxy>>
	readonly environment?: Environment
	/** Path of another workflows module than the laboratory's own. */
	readonly workflows?: string
	/** Do not wait until it is ready. */
	readonly eager?: true
}

export type Role = 'functions' | 'relay' | 'worker'

export interface LabProcess {
	readonly role: Role
	/** `LAB_NAME` in its environment, and `worker` in `lab_executions`. */
	readonly name: string
	readonly process: RunningProcess
	/** Of functions; '' for the others. */
	readonly url: string
	readonly isRunning: boolean
	/** SIGKILL, sent in this turn. Resolves when it is gone. */
	kill(): Promise<void>
	/** SIGTERM; resolves when it has ended in order. */
	stop(): Promise<Exit>
	/** SIGSTOP and SIGCONT: neither ends it. */
	freeze(): void
	thaw(): void
}

/** A fault that happened, by this machine's clock, which the private and shared servers share. */
export interface JournalEntry {
	readonly at: number
	readonly what: string
}

export interface Lab {
	/** Straight to Postgres, not over a road. */
	readonly database: Database
	readonly databaseUrl: string
	readonly rabbitMqUrl: string
	readonly queue: string
	readonly servers: {
		readonly postgres?: PrivateServer
		readonly rabbitMq?: PrivateRabbitMq
		readonly redis?: PrivateServer
	}
	readonly roads: Readonly<Record<ServerName, TcpProxy>>
	readonly journal: readonly JournalEntry[]
	/** What workers have logged of nodes that they began and gave back. */
	givenBack(): readonly GivenBack[]
	readonly functions: readonly LabProcess[]
	readonly relays: readonly LabProcess[]
	readonly workers: readonly LabProcess[]
	note(what: string): void
	/** A further road to a server; closed with the laboratory. */
	road(server: ServerName): Promise<TcpProxy>
	startFunctions(options?: StartOptions): Promise<LabProcess>
	startRelay(options?: StartOptions): Promise<LabProcess>
	startWorker(options?: StartOptions): Promise<LabProcess>
	/** Keeps so many of each running until `rest`, whatever ends them. Resolves when all are up. */
	supervise(counts: Partial<Record<Role, number>>): Promise<void>
	/** A request to some functions server that runs, repeated on others until one answers below 500. */
	request(path: string, init?: RequestInit, options?: { readonly deadlineMs?: number }): Promise<Response>
	/** Lets a node go on that the run's order holds. */
	openGate(runId: string, nodeId: string): Promise<void>
	rows<T extends Row>(text: string, ...parameters: Parameter[]): Promise<T[]>
	/** Resolves when this node is being executed; with the row of that execution. */
	executing(runId: string, nodeId: string, executions?: number): Promise<Execution>
	/** Ends all processes but these and mends all roads; what is in the servers stays. A kept one is thawed. */
	rest(keep?: readonly LabProcess[]): Promise<void>
	close(): Promise<void>
}

/** An execution that its worker gave up: it was told to stop, or what follows could not be read or written. */
export interface GivenBack {
	readonly runId: string
	readonly nodeId: string
	/** `LabProcess.name` */
	readonly worker: string
}

export interface Execution extends Row {
	readonly run_id: string
	readonly node_id: string
	readonly generation: string
	readonly recovers: string
	readonly attempt: number
	/** `LabProcess.name` */
	readonly worker: string
	readonly pid: number
	/** The claim under which its process had the node at its beginning; null if it had none then. */
	readonly claim: string | null
	/** Of that claim: the worker's id, and when it was claimed. */
	readonly worker_id: string | null
	readonly claimed_at: string | null
	/** By Postgres's clock, as epoch milliseconds. */
	readonly started: number
	/** Null: killed, or still at it. */
	readonly ended: 'returned' | 'threw' | `aborted: ${string}` | null
	readonly ended_ms: number | null
}

export const EXECUTION_COLUMNS = `run_id, node_id, generation, recovers, attempt, worker, pid, claim::text, worker_id::text,
	claimed_at::text,
	extract(epoch from started_at)::float8 * 1000 as started, ended, extract(epoch from ended_at)::float8 * 1000 as ended_ms`

const TABLES = `
	create table lab_executions (
		execution uuid primary key, run_id text not null, node_id text not null, generation text not null,
		recovers text not null, attempt int not null, worker text not null, pid int not null,
		claim uuid, worker_id uuid, claimed_at timestamptz,
		started_at timestamptz not null default clock_timestamp(), ended_at timestamptz, ended text
	);
	create index on lab_executions (run_id, node_id);
	create table lab_gates (name text primary key);
	create table lab_bookings (run_id text not null, node_id text not null, generation text not null, recovers text not null)`

const ENTRIES: Readonly<Record<Role, { readonly entry: string; readonly readyLine: RegExp }>> = {
	functions: { entry: 'functions/node.ts', readyLine: /"url"/ },
	relay: { entry: 'worker/relay.main.ts', readyLine: /The relay runs/ },
	worker: { entry: 'worker/worker.main.ts', readyLine: /The worker listens/ },
}

/** What a worker says before it gives a node back that it has begun. */
const GIVES_BACK = /A node could not be brought to an end|"reason":"WorkerDrainingError"/

/** Of a process on a machine that is several times too busy. */
const READY_DEADLINE_MS = 60_000
const REQUEST_DEADLINE_MS = 60_000
const ANSWER_DEADLINE_MS = 15_000

export async function openLab(options: LabOptions = {}): Promise<Lab> {
	const servers: { postgres?: PrivateServer; rabbitMq?: PrivateRabbitMq; redis?: PrivateServer } = {}
	const closing: (() => Promise<unknown>)[] = []
	const [databaseUrl, rabbitMqUrl, redisUrl] = await Promise.all([
		options.postgres === 'private'
			? startPostgres().then(async (server) => {
					servers.postgres = server
					await migrate(server.url)
					return server.url
				})
			: freshDatabase().then((fresh) => {
					closing.push(() => fresh.drop())
					return fresh.url
				}),
		options.rabbitMq === 'private'
			? startRabbitMq().then((server) => (servers.rabbitMq = server).url)
			: rabbitMq().then(({ url }) => url),
		options.redis === 'private'
			? startRedis().then((server) => (servers.redis = server).url)
			: options.redis === 'shared'
				? redis().then(({ url }) => url)
				: undefined,
	])
	const database = createDatabase(databaseUrl, { max: 4, applicationName: 'lab' })
	if (options.postgres === 'private') await installChangedSources(database.sql)
	await database.sql.unsafe(TABLES)
	const queue = freshQueueName()

	const targets: Record<ServerName, string> = {
		postgres: databaseUrl,
		rabbitMq: rabbitMqUrl,
		// A road to nowhere, if there is none.
		redis: redisUrl ?? 'redis://127.0.0.1:1',
	}
	const roads = {
		postgres: await startProxy(targets.postgres),
		rabbitMq: await startProxy(targets.rabbitMq),
		redis: await startProxy(targets.redis),
	}
	const ownRoads: TcpProxy[] = []
	const journal: JournalEntry[] = []
	const processes: Record<Role, LabProcess[]> = { functions: [], relay: [], worker: [] }
	let supervising: Promise<void>[] = []
	let resting = false
	let started = 0

	/** Those that have ended too: what they said is still asked for. */
	const everything: LabProcess[] = []

	const note = (what: string): void => void journal.push({ at: Date.now(), what })

	async function start(role: Role, startOptions: StartOptions = {}): Promise<LabProcess> {
		const name = `${role}-${(started += 1)}`
		const port =
			role === 'functions' ? (startOptions.environment?.['PORT'] ?? String(await freePort())) : ''
		const through = (server: ServerName): string => (startOptions.roads?.[server] ?? roads[server]).url
		const { entry, readyLine } = ENTRIES[role]
		const running = await spawnProcess({
			entry,
			env: {
				DATABASE_URL: through('postgres'),
				...(role === 'functions'
					? { PORT: port }
					: { RABBITMQ_URL: through('rabbitMq'), QUEUE_NAME: queue }),
				...(role === 'functions' || redisUrl === undefined ? {} : { REDIS_URL: through('redis') }),
				...(role === 'worker'
					? {
							WORKFLOWS: startOptions.workflows ?? 'test/faults/lab/workflows.ts',
							CONCURRENCY: '16',
						}
					: {}),
				LAB_DATABASE_URL: databaseUrl,
				LAB_NAME: name,
				...Object.fromEntries(Object.entries(TIMES).map(([variable, ms]) => [variable, String(ms)])),
				...options.environment,
				...startOptions.environment,
			},
			...(startOptions.eager === true ? {} : { readyLine, deadlineMs: READY_DEADLINE_MS }),
		})
		const labProcess: LabProcess = {
			role,
			name,
			process: running,
			url: role === 'functions' ? `http://127.0.0.1:${port}` : '',
			get isRunning() {
				return running.exit === undefined
			},
			kill() {
				note(`kill ${name}`)
				return running.kill('SIGKILL')
			},
			stop() {
				note(`stop ${name}`)
				return running.stop({ deadlineMs: 60_000 })
			},
			freeze() {
				note(`freeze ${name}`)
				void running.kill('SIGSTOP')
			},
			thaw() {
				note(`thaw ${name}`)
				void running.kill('SIGCONT')
			},
		}
		const all = processes[role]
		all.push(labProcess)
		everything.push(labProcess)
		void running.exited.then(() => all.splice(all.indexOf(labProcess), 1))
		return labProcess
	}

	/** One place in which some process of a role always runs. Functions keep their port, as behind a balancer. */
	async function keepOne(role: Role, whenUp: () => void): Promise<void> {
		const environment = role === 'functions' ? { PORT: String(await freePort()) } : {}
		while (!resting) {
			const labProcess = await start(role, { environment, eager: true })
			labProcess.process
				.waitForLine(ENTRIES[role].readyLine, { deadlineMs: 600_000 })
				.then(whenUp, () => {})
			await labProcess.process.exited
		}
	}

	async function rest(keep: readonly LabProcess[] = []): Promise<void> {
		resting = true
		for (;;) {
			const left = Object.values(processes).flat()
			const ending = left.filter((each) => !keep.includes(each))
			if (ending.length === 0) break
			await Promise.all(ending.map(({ process }) => process.kill('SIGKILL')))
		}
		await Promise.all(supervising)
		supervising = []
		for (const kept of keep) if (kept.isRunning) void kept.process.kill('SIGCONT')
		for (const road of [...Object.values(roads), ...ownRoads]) {
			road.cut()
			road.resume()
			road.delay(0)
			await road.accept()
		}
		resting = false
	}

	const lab: Lab = {
		database,
		databaseUrl,
		rabbitMqUrl,
		queue,
		servers,
		roads,
		journal,
		givenBack: () =>
			everything.flatMap(({ name: worker, process }) =>
				process.lines.flatMap((line) => {
					if (!GIVES_BACK.test(line)) return []
					// Not parsed: a process that was killed may have left half a line.
					const [, runId, nodeId] = /"runId":"([^"]+)".*"nodeId":"([^"]+)"/.exec(line) ?? []
					return runId === undefined || nodeId === undefined ? [] : [{ runId, nodeId, worker }]
				}),
			),
		functions: processes.functions,
		relays: processes.relay,
		workers: processes.worker,
		note,
		async road(server) {
			const road = await startProxy(targets[server])
			ownRoads.push(road)
			return road
		},
		startFunctions: (startOptions) => start('functions', startOptions),
		startRelay: (startOptions) => start('relay', startOptions),
		startWorker: (startOptions) => start('worker', startOptions),
		async supervise(counts) {
			const up: Promise<void>[] = []
			for (const role of ['functions', 'relay', 'worker'] as const) {
				for (let place = 0; place < (counts[role] ?? 0); place += 1)
					up.push(new Promise((resolve) => supervising.push(keepOne(role, resolve))))
			}
			await Promise.all(up)
		},
		request: (path, init = {}, { deadlineMs = REQUEST_DEADLINE_MS } = {}) =>
			waitFor(
				`an answer to ${init.method ?? 'GET'} ${path}`,
				async () => {
					const servers = processes.functions
					const server = servers[Math.floor(Math.random() * servers.length)]
					if (server === undefined) throw new Error('no functions server runs')
					const response = await fetch(server.url + path, {
						...init,
						signal: AbortSignal.timeout(ANSWER_DEADLINE_MS),
					})
					if (response.status >= 500)
						throw new Error(`${response.status}: ${await response.text()}`)
					return response
				},
				{ deadlineMs },
			),
		async openGate(runId, nodeId) {
			await lab.rows('insert into lab_gates values ($1) on conflict do nothing', `${runId}/${nodeId}`)
		},
		rows: (text, ...parameters) =>
			withDeadline('A query of the laboratory', 20_000, query(database.sql, text, parameters)),
		async executing(runId, nodeId, executions = 1) {
			const found = await waitFor(
				`execution ${executions} of node ${nodeId}`,
				() =>
					lab.rows<Execution>(
						`select ${EXECUTION_COLUMNS} from lab_executions where run_id = $1 and node_id = $2 order by started_at`,
						runId,
						nodeId,
					),
				{ until: (rows) => rows.length >= executions, deadlineMs: 60_000 },
			)
			return found[executions - 1] as Execution
		},
		rest,
		async close() {
			await rest()
			await database.close()
			await Promise.all([...Object.values(roads), ...ownRoads].map((road) => road.close()))
			await Promise.all([
				...closing.map((close) => close()),
				...Object.values(servers).map((s) => s.remove()),
			])
		},
	}
	return lab
}
