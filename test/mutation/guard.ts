/**
 * A guard of the engine, and how to take it away: data, so that the list of guards can be read, checked and published.
 */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

export interface Guard {
	/** For `--only`, kebab-case. */
	readonly name: string
	/** What it keeps from happening, in one sentence. */
	readonly keeps: string
	/** How it is removed. */
	readonly edits: readonly Edit[]
	/** Tests that fail without it: each of them has to. */
	readonly noticedBy: readonly Notice[]
}

export interface Edit {
	/** Relative to the project's folder. */
	readonly file: string
	/** Stands there exactly once. */
	readonly find: string
	readonly replace: string
}

/** @param test a part of its title, exact, that stands so in the file */
export type Notice = readonly [file: string, test: string]

/** A patch that does not fit the code any more: the guard has moved, and its entry has to follow. */
export class StalePatchError extends Error {
	constructor(message: string) {
		super(message)
		this.name = 'StalePatchError'
	}
}

/** The text without what the edit removes. @throws StalePatchError unless it applies exactly once */
export function applyEdit(text: string, { file, find, replace }: Edit): string {
	const parts = text.split(find)
	if (parts.length !== 2) {
		throw new StalePatchError(
			`${file} has ${parts.length - 1} times, not once, what was to be replaced:\n${find}`,
		)
	}
	if (find === replace) throw new StalePatchError(`The edit of ${file} changes nothing`)
	return parts.join(replace)
}

/** Each file of a guard as it is without it. @throws StalePatchError */
export function withoutGuard(root: string, guard: Guard): Map<string, string> {
	const changed = new Map<string, string>()
	for (const edit of guard.edits) {
		const text = changed.get(edit.file) ?? readFileSync(join(root, edit.file), 'utf8')
		changed.set(edit.file, applyEdit(text, edit))
	}
	return changed
}

/** What makes an entry worthless although its edits apply: tests that are not there. Empty when all is well. */
export function missingTests(root: string, guard: Guard): string[] {
	return guard.noticedBy
		.filter(([file, test]) => !textOf(join(root, file)).includes(test))
		.map(([file, test]) => `${file} has no test "${test}"`)
}

/** With the contract that it holds several implementations to, if it does. */
function textOf(path: string): string {
	if (!existsSync(path)) return ''
	const text = readFileSync(path, 'utf8')
	const contract = /from '([^']+\.contract)\.js'/.exec(text)?.[1]
	return contract === undefined ? text : text + textOf(join(dirname(path), `${contract}.ts`))
}
