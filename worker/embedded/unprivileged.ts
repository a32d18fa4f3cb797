/**
 * Postgres refuses to run as root, and containers often are root. This finds, by trying, a way to run it as
 * somebody else without touching the machine's users.
 */
import { execFile } from 'node:child_process'
import { userInfo } from 'node:os'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** How to start programs, and who must own the files that they write. */
export interface Identity {
	/** For logs. */
	readonly name: string
	/** Programs and arguments to put before the program. */
	readonly prefix: readonly string[]
	/** For `spawn`. */
	readonly ids: { readonly uid?: number; readonly gid?: number }
	/** `undefined`: leave the ownership of files alone. */
	readonly owner: { readonly uid: number; readonly gid: number } | undefined
}

/** "nobody" on almost every system; any unprivileged number would do. */
const NOBODY = 65534

const SELF: Identity = { name: 'this user', prefix: [], ids: {}, owner: undefined }

/**
 * The same user under another name: still root to the machine, so that it passes through folders that are closed to
 * others, but not root to itself. The number must have a name on this machine, initdb asks for it.
 */
const USER_NAMESPACE: Omit<Identity, 'owner'> = {
	name: 'a user namespace',
	prefix: ['unshare', '--user', `--map-user=${NOBODY}`, `--map-group=${NOBODY}`, '--'],
	ids: {},
}

/** In the order of how little each can do to the rest of the machine. */
const IDENTITIES_FOR_ROOT: readonly Identity[] = [
	{
		name: `user ${NOBODY}`,
		prefix: [],
		ids: { uid: NOBODY, gid: NOBODY },
		owner: { uid: NOBODY, gid: NOBODY },
	},
	{ ...USER_NAMESPACE, owner: { uid: 0, gid: 0 } },
	// For containers that forbid user namespaces: nobody, who may pass through closed folders.
	{
		name: `user ${NOBODY} with CAP_DAC_OVERRIDE`,
		prefix: [
			'setpriv',
			`--reuid=${NOBODY}`,
			`--regid=${NOBODY}`,
			'--clear-groups',
			// Without it access(2), which Postgres asks about its own programs, would ignore the capability.
			'--securebits=+no_setuid_fixup',
			'--inh-caps=+dac_override',
			'--ambient-caps=+dac_override',
			'--',
		],
		ids: {},
		owner: { uid: NOBODY, gid: NOBODY },
	},
]

/**
 * The first identity that can both run `program` and enter `folder`, and what `program --version` prints.
 *
 * @throws if there is none; the message lists what was tried.
 */
export async function findIdentity(
	program: string,
	folder: string,
): Promise<{ identity: Identity; version: string }> {
	const tried: string[] = []
	for (const identity of candidates()) {
		try {
			return { identity, version: await probe(identity, program, folder) }
		} catch (error) {
			tried.push(
				`as ${identity.name}: ${error instanceof Error ? error.message.trim().replaceAll('\n', ' ') : String(error)}`,
			)
		}
	}
	throw new Error(`${program} cannot be run here (${tried.join('; ')})`)
}

function candidates(): readonly Identity[] {
	if (process.getuid?.() === 0) return IDENTITIES_FOR_ROOT
	try {
		userInfo()
		return [SELF]
	} catch {
		// Containers may run as a number that has no name.
		return [{ ...USER_NAMESPACE, owner: undefined }, SELF]
	}
}

async function probe(identity: Identity, program: string, folder: string): Promise<string> {
	const { ids, prefix } = identity
	const options = { ...ids, timeout: 10_000, cwd: '/' }
	if (identity === SELF) return (await run(program, ['--version'], options)).stdout.trim()
	const [command, ...rest] = [...prefix, '/bin/sh', '-c', 'cd "$1" && exec "$0" --version', program, folder]
	return (await run(command ?? program, rest, options)).stdout.trim()
}
