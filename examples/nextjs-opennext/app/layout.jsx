import Link from "next/link";
import "./globals.css";

export const metadata = { title: "Next.js on the platform", icons: "/icon.svg" };

export default function Layout({ children }) {
  return (
    <html lang="en">
      <body>
        <nav>
          <Link href="/">Home</Link>
          <Link href="/time">Time</Link>
          <Link href="/stream">Stream</Link>
          <Link href="/posts/first">Post</Link>
        </nav>
        <main>{children}</main>
      </body>
    </html>
  );
}
