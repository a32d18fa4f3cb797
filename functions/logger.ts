/** A log of one JSON object per line, in the form of pino's, for hosts where pino does not run. */
import type { Logger } from '../src/ports/logger.js'
import { createRedactor, type Redactor } from '../src/redaction.js'

/** With pino's numbers. */
const LEVELS = {
	trace: 10,
	debug: 20,
	info: 30,
	warn: 40,
	error: 50,
	fatal: 60,
	silent: Number.POSITIVE_INFINITY,
} as const
export type LogLevel = keyof typeof LEVELS
export const LOG_LEVELS = Object.keys(LEVELS) as LogLevel[]

/**
 * @param name which process it is
 * @param write gets each line, without its end
 * @param redactor sees every line before that
 * @param fields stand in every line
 */
export function createJsonLogger(
	name: string,
	level: LogLevel,
	write: (line: string) => void,
	redactor: Redactor = createRedactor(),
	fields: Readonly<Record<string, unknown>> = {},
): Logger {
	const at =
		(of: 'debug' | 'info' | 'warn' | 'error'): Logger['info'] =>
		(message, more) => {
			if (LEVELS[of] < LEVELS[level]) return
			const shown = redactor.value(more ?? {}) as object
			write(
				JSON.stringify({
					level: LEVELS[of],
					time: Date.now(),
					...fields,
					name,
					...shown,
					msg: redactor.text(message),
				}),
			)
		}
	return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
}
