/**
 * Where log lines go. The message is a constant, what varies stands in `fields`
 * (`{ runId, nodeId, attempt, workerId }`). Flowcraft's `ILogger`, pino behind a small adapter and `console` fit.
 */
export interface Logger {
	debug(message: string, fields?: Readonly<Record<string, unknown>>): void
	info(message: string, fields?: Readonly<Record<string, unknown>>): void
	warn(message: string, fields?: Readonly<Record<string, unknown>>): void
	error(message: string, fields?: Readonly<Record<string, unknown>>): void
}

/** Says nothing. */
export const noLogger: Logger = { debug() {}, info() {}, warn() {}, error() {} }
