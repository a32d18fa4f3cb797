// @ts-check
/**
 * Extends the worker's lease from a thread and a connection of its own: neither a node that keeps the CPU nor a long
 * transaction starves it. It ends with its process, which is the point: a dead process is silent.
 *
 * Plain JavaScript, and by itself: a thread inherits no TypeScript loader.
 */
import { parentPort, workerData } from 'node:worker_threads'
import postgres from 'postgres'

/** @type {import('./heartbeat.js').HeartbeatData} */
const { databaseUrl, statement, workerId, leaseMs } = workerData
const everyMs = leaseMs / 3

const connect = () =>
	postgres(databaseUrl, {
		max: 1,
		prepare: false,
		fetch_types: false,
		connect_timeout: everyMs / 1000,
		onnotice: () => {},
		connection: { application_name: 'flowcraft-heartbeat', statement_timeout: Math.ceil(everyMs) },
	})
let sql = connect()

/** @param {import('./heartbeat.js').HeartbeatMessage} message */
const post = (message) => parentPort?.postMessage(message)

/** @returns {Promise<never>} */
const late = () =>
	new Promise((_, reject) => setTimeout(() => reject(new Error(`no answer within ${everyMs} ms`)), everyMs))

/** @param {boolean} isExtra */
async function beat(isExtra = false) {
	const asked = sql
	try {
		const rows = await Promise.race([asked.unsafe(statement, [workerId, leaseMs]), late()])
		const [row] = rows
		post(row === undefined ? { type: 'lost' } : { type: 'beat', workers: row['workers'] })
	} catch (error) {
		post({ type: 'missed', error: error instanceof Error ? error.message : String(error) })
		// The driver pauses for up to 20 s between its attempts to connect, which may be longer than the lease; a new one
		// tries at once. Nor does it always use a connection again that broke (`src/db/renewing-pool.ts`).
		if (asked !== sql) return
		sql = connect()
		asked.end({ timeout: 0 }).catch(() => {})
		// A connection that was cut says nothing of the next one: no third of the lease is lost to it.
		if (!isExtra) setTimeout(() => void beat(true), everyMs / 4)
	}
}

setInterval(() => void beat(), everyMs)
