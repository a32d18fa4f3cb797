/**
 * A few connections for interactive transactions, each for one transaction at a time. They are made when they are needed,
 * kept for the next transaction if the last one ended in order, and closed when nobody has needed them for a while.
 */
import { TransactionConnection } from './connection.js'

export interface TransactionPoolOptions {
	readonly databaseUrl: string
	/** Connections at most. */
	readonly max: number
	/** False for transaction poolers that know no prepared statements. Default true. */
	readonly prepare?: boolean
}

/** A connection that nobody has needed for so long is closed, in ms. */
const IDLE_MS = 30_000
/** No connection grows older, in ms: a server that was added, or a password that changed, is noticed. */
const MAX_AGE_MS = 30 * 60_000

interface Idle {
	readonly connection: TransactionConnection
	readonly bornAt: number
	readonly timer: NodeJS.Timeout
}

export class TransactionPool {
	readonly #options: TransactionPoolOptions
	readonly #bornAt = new WeakMap<TransactionConnection, number>()
	#idle: Idle[] = []
	#taken = 0
	#waiting: (() => void)[] = []
	#isClosed = false

	constructor(options: TransactionPoolOptions) {
		this.#options = options
	}

	/** A connection for one transaction, as soon as one may be had. @throws the signal's reason */
	async take(signal: AbortSignal): Promise<TransactionConnection> {
		signal.throwIfAborted()
		while (this.#taken >= this.#options.max) {
			const turn = await this.#nextTurn(signal)
			if (turn === 'aborted') throw signal.reason
		}
		this.#taken += 1
		for (let idle = this.#idle.pop(); idle !== undefined; idle = this.#idle.pop()) {
			clearTimeout(idle.timer)
			if (!idle.connection.isLost && Date.now() - idle.bornAt < MAX_AGE_MS) return idle.connection
			void idle.connection.close()
		}
		const connection = new TransactionConnection(this.#options.databaseUrl, this.#options.prepare ?? true)
		this.#bornAt.set(connection, Date.now())
		return connection
	}

	/** @param isClean no transaction is open on it; otherwise it must have been destroyed */
	giveBack(connection: TransactionConnection, isClean: boolean): void {
		this.#taken -= 1
		this.#waiting.shift()?.()
		if (connection.isLost) return
		if (!isClean || this.#isClosed) return void connection.close()
		const timer = setTimeout(() => {
			this.#idle = this.#idle.filter((each) => each.connection !== connection)
			void connection.close()
		}, IDLE_MS)
		timer.unref()
		this.#idle.push({ connection, bornAt: this.#bornAt.get(connection) ?? 0, timer })
	}

	async close(): Promise<void> {
		this.#isClosed = true
		const idle = this.#idle.splice(0)
		for (const { timer } of idle) clearTimeout(timer)
		await Promise.all(idle.map(({ connection }) => connection.close()))
	}

	#nextTurn(signal: AbortSignal): Promise<'free' | 'aborted'> {
		return new Promise((resolve) => {
			const free = (): void => {
				signal.removeEventListener('abort', aborted)
				resolve('free')
			}
			const aborted = (): void => {
				this.#waiting = this.#waiting.filter((each) => each !== free)
				resolve('aborted')
			}
			signal.addEventListener('abort', aborted, { once: true })
			this.#waiting.push(free)
		})
	}
}
