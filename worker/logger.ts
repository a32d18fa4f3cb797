/** The processes' log: one JSON object per line, a constant message plus fields. */
import { pino } from 'pino'
import type { Logger } from '../src/ports/logger.js'
import { createRedactor, type Redactor } from '../src/redaction.js'

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

/**
 * @param name which process it is: `relay`, `worker`, `functions`
 * @param redactor sees every line before it is written
 */
export function createLogger(
	name: string,
	level: LogLevel = 'info',
	redactor: Redactor = createRedactor(),
): Logger {
	const logger = pino({ name, level })
	const at =
		(of: 'debug' | 'info' | 'warn' | 'error'): Logger['info'] =>
		(message, fields) => {
			if (logger.isLevelEnabled(of)) logger[of](redactor.value(fields ?? {}), redactor.text(message))
		}
	return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
}
