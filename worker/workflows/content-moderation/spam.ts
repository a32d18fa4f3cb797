/**
 * Scores spam: promotional phrases, links, shouting and repetition. Demo-grade: one sign alone never suffices, so
 * that a link or an enthusiastic post passes, and anyone who tries can stay below the line.
 */
import type { SpamClassifier, SpamFinding } from './detectors.js'
import { fold, spellings } from './text.js'

const SPAM_POINTS = 4
const MOST_POINTS = 8

/** Two points each. */
const HARD_SELL = [
	'buy now',
	'order now',
	'click here',
	'free money',
	'easy money',
	'make money fast',
	'you have won',
	'you won',
	'claim your (?:prize|reward|gift|bonus)',
	'double your (?:money|bitcoin|income|investment)',
	'cheap (?:pills|watches|meds|followers)',
	'(?:work|earn) from home',
	'no credit check',
	'guaranteed (?:profit|income|returns|results)',
	'crypto giveaway',
	'send (?:btc|bitcoin|crypto)',
]

/** One point each. */
const SOFT_SELL = [
	'limited time',
	'limited offer',
	'special offer',
	'exclusive deal',
	'act (?:now|fast)',
	'dont miss out',
	'risk free',
	'no obligation',
	'100% free',
	'discount',
	'lowest prices?',
	'promo code',
	'gift cards?',
	'free gift',
	'free trial',
	'guaranteed',
	'winner',
	'casino',
	'jackpot',
	'miracle',
	'lose weight',
	'followers',
	'investment opportunity',
	'passive income',
	'dm me',
	'link in bio',
	'subscribe to my',
	'while stocks last',
]
const MOST_PHRASE_POINTS = 6

const LINK = /(?:https?:\/\/|(?<![\p{L}\p{N}@.])www\.)[^\s<>"]+/giu
const BARE_DOMAIN =
	/(?<![\p{L}\p{N}@./-])(?:[a-z0-9-]{1,63}\.){1,4}(?:biz|xyz|top|click|shop|win|loan|bid|icu|club)(?![\p{L}\p{N}])/giu
const SUSPICIOUS_LINK =
	/(?:^|[/.])(?:bit\.ly|tinyurl\.com|goo\.gl|is\.gd|cutt\.ly|t\.me)(?:[/?#]|$)|\.(?:biz|xyz|top|click|win|loan|bid|icu)(?:[:/?#]|$)/i
const MANY_LINKS = 3

const SHOUTING_MIN_LETTERS = 20
const SHOUTING_SHARE = 0.7

const REPEATED_WORD_MIN_TIMES = 5
const REPEATED_WORD_SHARE = 0.3
const REPEATED_SENTENCE_TIMES = 3
const REPEATED_SENTENCE_MIN_LETTERS = 10

interface Sign {
	readonly reason: string
	readonly points: number
}

export function createScoredSpamClassifier(): SpamClassifier {
	return { classify: async (text) => classifySpam(text) }
}

export function classifySpam(text: string): SpamFinding {
	const plain = fold(text).text
	const signs = [
		...phraseSigns(text),
		...linkSigns(plain),
		...shoutingSigns(plain),
		...repetitionSigns(plain),
	]
	const points = signs.reduce((sum, sign) => sum + sign.points, 0)
	return {
		isSpam: points >= SPAM_POINTS,
		score: Math.min(points, MOST_POINTS) / MOST_POINTS,
		reasons: signs.map(({ reason }) => reason),
	}
}

const HARD_PATTERNS = HARD_SELL.map(phrasePattern)
const SOFT_PATTERNS = SOFT_SELL.map(phrasePattern)

function phrasePattern(phrase: string): RegExp {
	return new RegExp(`(?<!\\S)${phrase}(?!\\S)`, 'u')
}

function phraseSigns(text: string): Sign[] {
	const variants = spellings(text)
	const firstMatch = (pattern: RegExp) =>
		variants.map((variant) => pattern.exec(variant)?.[0]).find((match) => match !== undefined)
	const hard = HARD_PATTERNS.map(firstMatch).filter((match) => match !== undefined)
	const soft = SOFT_PATTERNS.map(firstMatch).filter((match) => match !== undefined)
	const points = Math.min(hard.length * 2 + soft.length, MOST_PHRASE_POINTS)
	return points > 0 ? [{ reason: `promotional phrases: ${[...hard, ...soft].join(', ')}`, points }] : []
}

function linkSigns(plain: string): Sign[] {
	const links = [...plain.matchAll(LINK), ...plain.matchAll(BARE_DOMAIN)].map((match) =>
		match[0].replace(/[.,!?)]+$/, ''),
	)
	const signs: Sign[] = []
	if (links.length > 0)
		signs.push({
			reason: links.length === 1 ? 'a link' : `${links.length} links`,
			points: links.length >= MANY_LINKS ? 2 : 1,
		})
	if (links.some((link) => SUSPICIOUS_LINK.test(link)))
		signs.push({ reason: 'a link of a kind that spammers like', points: 2 })
	return signs
}

function shoutingSigns(plain: string): Sign[] {
	const signs: Sign[] = []
	const words = plain.replace(LINK, '')
	const cased = words.match(/[\p{Lu}\p{Ll}]/gu)?.length ?? 0
	const upper = words.match(/\p{Lu}/gu)?.length ?? 0
	if (cased >= SHOUTING_MIN_LETTERS && upper / cased >= SHOUTING_SHARE)
		signs.push({ reason: 'capital letters throughout', points: 1 })
	if (/!{3,}|[$€£]{3,}/u.test(plain)) signs.push({ reason: 'strings of signs', points: 1 })
	return signs
}

function repetitionSigns(plain: string): Sign[] {
	const signs: Sign[] = []
	const words = plain.toLowerCase().match(/\p{L}{3,}/gu) ?? []
	const mostFrequentWord = mostFrequent(words)
	if (
		mostFrequentWord >= REPEATED_WORD_MIN_TIMES &&
		mostFrequentWord / words.length >= REPEATED_WORD_SHARE
	) {
		signs.push({ reason: 'one word over and over', points: 2 })
	}
	const sentences = plain
		.split(/[.!?\n]+/)
		.map((sentence) => sentence.trim().toLowerCase())
		.filter((sentence) => sentence.length >= REPEATED_SENTENCE_MIN_LETTERS)
	if (mostFrequent(sentences) >= REPEATED_SENTENCE_TIMES)
		signs.push({ reason: 'one sentence over and over', points: 2 })
	return signs
}

/** How often the most frequent item occurs. */
function mostFrequent(items: readonly string[]): number {
	const counts = new Map<string, number>()
	let most = 0
	for (const item of items) {
		const count = (counts.get(item) ?? 0) + 1
		counts.set(item, count)
		most = Math.max(most, count)
	}
	return most
}
