/**
 * Wakes an idle relay through Postgres: whoever adds to the outbox notifies it, but only while it sleeps
 * (`src/db/sql/15_ring.sql`). Needs no Redis. Of several idle relays one sleeps under the alarm, the others go on looking.
 *
 * Both the lock and the subscription belong to a session, so this has a connection of its own, and that must not lead
 * through a pooler that shares sessions between clients.
 */
import postgres, { type Sql } from 'postgres'
import { withDeadline } from '../../src/db/errors.js'
import { type Notice, readNotice } from '../../src/outbox/notice.js'
import type { Logger } from '../../src/ports/logger.js'

export interface Alarm {
	/**
	 * True: whatever was added to the outbox before can be seen now, and whatever is added from now on wakes. False: it is
	 * not to be had now, since another relay has it, somebody is about to commit, or Postgres cannot be reached.
	 */
	arm(): Promise<boolean>
	/** Who begins to write from now on does not notify. Who has begun before may still wake. */
	disarm(): Promise<void>
	close(): Promise<void>
}

export interface AlarmOptions {
	readonly databaseUrl: string
	/**
	 * Called for each commit that added to the outbox while the alarm was armed, and at times for nothing.
	 *
	 * @param notice the rows that it has taken for this relay, if it has
	 */
	readonly onWake: (notice?: Notice) => void
	/** Called when an armed alarm turns out to be gone. */
	readonly onLost: () => void
	readonly logger: Logger
}

/** Both are matters of milliseconds; after this the relay goes on without. */
const DEADLINE_MS = 2_000
/** How often an armed alarm shows that its relay lives, in ms: Postgres ends its session after the silence below. */
const SIGN_OF_LIFE_MS = 1_000
/** The lock that `flowcraft_relay_sleeps` asks for; at once, since whoever finds it taken hands over rows. */
const LOCK_AND_LISTEN = `select pg_try_advisory_lock(7305512216841093236) as locked, pg_backend_pid() as pid,
	(extract(epoch from clock_timestamp()) * 1000)::float8 as now; listen flowcraft_outbox`
/** Postgres 13 has no idle_session_timeout; nor does it act while notifications cannot be sent, since nobody reads them. */
const SILENCE_ENDS_SESSION =
	"select set_config(name, '4s', false) from pg_settings where name in ('idle_session_timeout', 'tcp_user_timeout')"
/** The driver may have opened another session meanwhile. */
const STILL_ARMED =
	"select exists (select from pg_locks where pid = pg_backend_pid() and locktype = 'advisory') as armed"
/** Rows are taken for a relay for a second. In ms. */
const USED_WITHIN_MS = 800
/** After a failure it is left alone for so long, in ms. */
const REST_AFTER_FAILURE_MS = 5_000

interface Armed {
	readonly locked: boolean
	readonly pid: number
	readonly now: number
}

export function createAlarm({ databaseUrl, onWake, onLost, logger }: AlarmOptions): Alarm {
	let session: Sql | undefined
	/** Of the session, and how far `performance.now()` is behind the clock of Postgres, since it was last asked. */
	let pid = 0
	let behindMs = 0
	let restsUntil = 0
	let signsOfLife: ReturnType<typeof setInterval> | undefined

	const open = (): Sql =>
		postgres(databaseUrl, {
			max: 1,
			prepare: false,
			fetch_types: false,
			idle_timeout: null,
			max_lifetime: null,
			connect_timeout: DEADLINE_MS / 1_000,
			onnotice: () => {},
			onnotify: (_channel: string, text: string) => hear(readNotice(text)),
			connection: { application_name: 'flowcraft-relay-alarm', statement_timeout: DEADLINE_MS },
		} as unknown as postgres.Options<Record<string, never>>)

	function hear(notice: Notice | undefined): void {
		if (notice === undefined) return onWake()
		// Other relays have other sessions, and hear of theirs.
		if (notice.for !== pid) return
		// It was long on its way: its rows may be somebody else's already.
		const ageMs = performance.now() + behindMs - notice.at
		onWake(ageMs < USED_WITHIN_MS ? notice : undefined)
	}

	/** A session that fails is ended, and its lock with it: who cannot be woken must not be notified. */
	async function run<T>(ask: (sql: Sql) => Promise<T>, otherwise: T): Promise<T> {
		if (performance.now() < restsUntil) return otherwise
		session ??= open()
		try {
			return await withDeadline('The alarm of the relay', DEADLINE_MS, ask(session))
		} catch (error) {
			logger.debug('The relay cannot be woken for now and looks by itself', { error })
			restsUntil = performance.now() + REST_AFTER_FAILURE_MS
			void end()
			return otherwise
		}
	}

	/** While nothing is written, nothing else tells that the session stands. */
	async function giveSign(): Promise<void> {
		const isThere = await run(async (sql) => {
			const [row] = await sql.unsafe<{ armed: boolean }[]>(STILL_ARMED)
			return row?.armed === true
		}, false)
		if (isThere || signsOfLife === undefined) return
		silence()
		onLost()
	}

	function silence(): void {
		clearInterval(signsOfLife)
		signsOfLife = undefined
	}

	async function end(): Promise<void> {
		const ended = session
		session = undefined
		await ended?.end({ timeout: 1 }).catch(() => {})
	}

	return {
		arm: () =>
			run(async (sql) => {
				// The driver leaves out the answers that have no rows.
				const [row] = await sql.unsafe<Armed[]>(LOCK_AND_LISTEN).simple()
				if (row?.locked !== true) return false
				pid = row.pid
				behindMs = row.now - performance.now()
				// A relay that stands still, or whose host is gone, must not be notified for ever.
				await sql.unsafe(SILENCE_ENDS_SESSION)
				signsOfLife ??= setInterval(() => void giveSign(), SIGN_OF_LIFE_MS)
				return true
			}, false),
		disarm: () => {
			silence()
			return run(async (sql) => {
				await sql.unsafe('select pg_advisory_unlock_all()')
			}, undefined)
		},
		async close() {
			silence()
			await end()
		},
	}
}
