/** What every long-lived process does alike: read its settings, start, stop on a signal, and end with the right code. */
import { answerArguments } from '../src/arguments.js'
import { EnvironmentError } from '../src/environment.js'
import type { Logger } from '../src/ports/logger.js'
import { scriptEnd } from '../src/npm-script.js'
import { createRedactor, secretsOf } from '../src/redaction.js'

export interface RunningProcess {
	readonly logger: Logger
	/** Graceful; called once. */
	stop(): Promise<void>
	/** `stop` may take so long, in ms; then the process ends anyway. */
	readonly stopWithinMs: number
}

/** The process cannot start, for a reason that its message says in full. */
export class StartError extends Error {}

/**
 * Runs a process until SIGTERM, SIGINT or the end of the npm script that it runs in. Exit codes: 0 after a graceful stop,
 * 1 after a failure, 2 for a faulty environment, 64 for unknown arguments. A second signal ends it at once; so does an
 * error that nobody caught: what state it left is unknown, and everything that matters is in Postgres.
 */
export async function runProcess(help: string, start: () => Promise<RunningProcess>): Promise<void> {
	answerArguments(process, help)
	const scriptHasEnded = scriptEnd(process)
	let running: RunningProcess
	try {
		running = await start()
	} catch (error) {
		if (error instanceof EnvironmentError) {
			console.error(`${error.message}\n\nSee .env.example, or --help.`)
			process.exit(2)
		}
		console.error(createRedactor({ secrets: secretsOf(process.env) }).text(explain(error)))
		process.exit(1)
	}
	const { logger } = running

	let stopping = false
	const stop = async (signal: string): Promise<void> => {
		if (stopping) {
			logger.warn('Ended by a second signal, before it had drained', { signal })
			process.exit(1)
		}
		stopping = true
		logger.info('Stopping', { signal })
		const deadline = setTimeout(() => {
			logger.error('The stop took too long')
			process.exit(1)
		}, running.stopWithinMs)
		deadline.unref()
		try {
			await running.stop()
			process.exit(0)
		} catch (error) {
			logger.error('The stop failed', { error })
			process.exit(1)
		}
	}
	process.on('SIGTERM', () => void stop('SIGTERM'))
	process.on('SIGINT', () => void stop('SIGINT'))
	void scriptHasEnded.then(() => {
		if (!stopping) void stop('the end of its npm script')
	})
	for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
		process.on(event, (error: unknown) => {
			logger.error('An error that nobody caught ends the process', { event, error })
			setTimeout(() => process.exit(1), 50)
		})
	}
}

/** One sentence where it is enough for whoever typed the command, the stack where it is not. */
function explain(error: unknown): string {
	if (!(error instanceof Error)) return String(error)
	if (error instanceof StartError) return error.message
	if ('code' in error && error.code === 'EADDRINUSE') {
		return `${error.message}\nAnother program listens there already. Stop it, or set PORT to another number.`
	}
	return error.stack ?? error.message
}
