/** The command line of programs whose settings come from the environment: `--help`, and nothing else. */

/** Wrong usage, as sysexits.h has it. */
export const EXIT_USAGE = 64

/** Of `process`, what this needs. */
export interface CommandProcess {
	readonly argv: readonly string[]
	readonly stdout: { write(text: string): unknown }
	readonly stderr: { write(text: string): unknown }
	exit(code: number): never
}

/**
 * Answers `--help`, and refuses every other argument: whoever gave it expects something of it. Ends the process then, and
 * does nothing without arguments.
 */
export function answerArguments(commandProcess: CommandProcess, help: string): void {
	const { argv, stdout, stderr } = commandProcess
	const args = argv.slice(2)
	if (args.includes('--help') || args.includes('-h')) {
		stdout.write(`${help}\n`)
		commandProcess.exit(0)
	}
	const [unknown] = args
	if (unknown === undefined) return
	stderr.write(`Unknown argument ${unknown}: see --help for what there is.\n`)
	commandProcess.exit(EXIT_USAGE)
}
