import { notFound } from "next/navigation";

const POSTS = {
  first: { title: "The first post", text: "Its address is a parameter of the page." },
  second: { title: "The second post", text: "Another address, the same page." },
};

export default async function Post({ params }) {
  const { slug } = await params;
  const post = Object.hasOwn(POSTS, slug) ? POSTS[slug] : notFound();
  return (
    <>
      <h1>{post.title}</h1>
      <p>{post.text}</p>
    </>
  );
}
